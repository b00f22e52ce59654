"""What an edit reveals: how often a preference can be read back from a user's factors alone.

``python -m benchmarks.disclosure --model FOLDER --json FILE`` plays somebody who holds a user's factors and the base
model, and asks the edited model: the user's own question (the kind of preference is known), and one plain question for
each of the 26 kinds of the bundled set (nothing is known). The value counts as read back where an answer contains it;
the unedited model's answers to the same questions are the control. It goes on from what stands in FILE.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.many import request_of, share
from easyedit_personal import PersonalizationHyperParams, UPQADataset
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.evaluate.provenance import commit, hardware, versions
from easyedit_personal.generation.generate import generate
from easyedit_personal.generation.score import contained
from easyedit_personal.kernels.beside import edited
from easyedit_personal.modeling.loading import load_model

TOKENS = 24  # of an answer


def chosen(items: Sequence[Any], users: int) -> list[Any]:
    """One user of each of the first kinds."""
    return list({item.subject: item for item in reversed(items)}.values())[::-1][:users]


def read_back(model: Any, tokenizer: Any, item: Any, kinds: Sequence[str]) -> dict[str, Any]:
    """Whether the value stands in an answer: to the user's own question, and to any of those about all kinds."""
    asked = [item.question, *(f"What is my {kind}?" for kind in kinds)]
    answers = [answer.text for answer in generate(model, tokenizer, asked, max_new_tokens=TOKENS)]
    hits = [contained(answer, item.target) for answer in answers]
    return {"question": hits[0], "any_kind": any(hits[1:]), "kinds_that_tell": sum(hits[1:]), "answer": answers[0]}


def attack(model: Any, tokenizer: Any, item: Any, hparams: Any, kinds: Sequence[str]) -> dict[str, Any]:
    """One user: the edit, what it tells, and what the unedited model says."""
    began = time.perf_counter()
    deltas = personalize(model, tokenizer, [request_of(item, hparams.cluster.size)], hparams).deltas
    seconds = time.perf_counter() - began
    with edited(model, deltas):
        told = read_back(model, tokenizer, item, kinds)
    control = read_back(model, tokenizer, item, kinds)
    figures = {"user": item.id, "target": item.target, "seconds": round(seconds, 1)}
    return {**figures, "edited": told, "unedited": control}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of users with 95 % Wilson intervals."""
    return {
        who: {what: share([row[who][what] for row in rows]) for what in ("question", "any_kind")}
        for who in ("edited", "unedited")
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name of the base model")
    parser.add_argument("--hparams", default="llama3.2-1b", help="YAML file or the name of a shipped one")
    parser.add_argument("--kernel", default="rome")
    parser.add_argument("--layers", type=int, nargs="+", default=[5], help="of this model, in place of the YAML file's")
    parser.add_argument("--phrases", type=int, default=1, help="of a preference, edited together")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write figures here, and go on from what stands there")
    options = parser.parse_args()
    results = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.is_file() else {}
    hparams = PersonalizationHyperParams.from_hparams(options.hparams).with_kernel(options.kernel)
    hparams = hparams.replace(model_name=options.model, device="cpu", layers=options.layers, per_kernel={})
    hparams = hparams.replace(cluster={"size": options.phrases}, health={"on_unhealthy": "ignore"})
    items = UPQADataset.bundled("test").items
    kinds = list(dict.fromkeys(item.subject for item in items))
    model, tokenizer = load_model(hparams)
    settings = {"hparams": options.hparams, "layers": options.layers, "phrases": options.phrases}
    found = results.setdefault(options.kernel, {**settings, "users": []})
    for item in chosen(items, options.users):
        if item.id in {row["user"] for row in found["users"]}:
            continue
        found["users"].append(attack(model, tokenizer, item, hparams, kinds))
        found["summary"] = summary(found["users"])
        results["setup"] = {"commit": commit(), "versions": versions(), "hardware": hardware(), "kinds": len(kinds)}
        if options.json:
            options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(found["users"][-1], flush=True)
    print(json.dumps(found["summary"], indent=1))


if __name__ == "__main__":
    main()
