"""Drive edits one after another into one model until it breaks, with and without the health guard.

``python -m benchmarks.collapse --json FILE`` edits "What is Tamsin's hobby?" and the like, of many people, into a
model, each on top of the last. The guard is ``editing.health_check`` at the YAML file's limits, set to
refuse; without it the same edits are kept whatever they do. Both arms see the same requests in the same order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.many import ALONE, people, share
from benchmarks.models import add_options, chosen
from easyedit_personal import EditRequest, PersonalizationHyperParams, UPQADataset
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.editing.health import HealthBaseline, answered, perplexity
from easyedit_personal.errors import HealthError
from easyedit_personal.generation.generate import generate
from easyedit_personal.generation.score import contained
from easyedit_personal.kernels.apply import apply_deltas, twin_of
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.loading import load_model

ARMS = {"without": "ignore", "with": "refuse"}


def drive(arm: str, hparams: Any, model: Any, tokenizer: Any, requests: Sequence[EditRequest], every: int) -> Any:
    """Edit upon edit in place; a row of figures after every ``every`` of them and where the first was refused."""
    clean = twin_of(model, [find_layout(model, hparams).rewrite_path(layer) for layer in hparams.layers])
    kept: list[EditRequest] = []
    rows: list[dict[str, Any]] = []
    refusals: list[dict[str, Any]] = []
    for number, request in enumerate(requests, 1):
        try:
            apply_deltas(model, personalize(model, tokenizer, [request], hparams, clean=clean).deltas)
            kept.append(request)
        except HealthError as error:
            refusals.append({"edit": number, "why": error.what})
        if number % every == 0:
            row = {"edits": number, "refused": len(refusals), **state(model, tokenizer, clean, kept)}
            rows.append(row)
            print(f"  {arm} the guard: {row}", flush=True)
    return {"rows": rows, "refusals": refusals}


def state(model: Any, tokenizer: Any, clean: Any, kept: Sequence[EditRequest]) -> dict[str, Any]:
    """How the model fares against the clean one, and recall of every edit that is in it."""
    before = HealthBaseline.of(clean, tokenizer)
    said = answered(model, tokenizer, before.rows)
    answers = generate(model, tokenizer, [one.prompt for one in kept])
    hits = [contained(answer.text, one.target_new) for answer, one in zip(answers, kept)]
    return {
        "perplexity_ratio": perplexity(model, tokenizer) / before.perplexity,
        "natural_stops": before.natural_stops(clean, tokenizer, said),
        "surprise": before.surprise(clean, tokenizer, said),
        "recalled": share(hits) if hits else None,
    }


def settings(options: Any, kernel: str, on_unhealthy: str) -> PersonalizationHyperParams:
    """The model's settings for this kernel with one phrase per edit, guarded or not."""
    hparams = chosen(options, kernel)
    return hparams.replace(per_kernel={}, health={"on_unhealthy": on_unhealthy}, **ALONE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernels", nargs="+", default=["rome"], choices=("rome", "memit", "lowrank", "finetune"))
    parser.add_argument("--edits", type=int, default=30)
    parser.add_argument("--every", type=int, default=5, help="edits between two rows of figures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write figures here, and go on from what stands there")
    add_options(parser)
    options = parser.parse_args()
    results = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.is_file() else {}
    requests = people(UPQADataset.bundled("test").items, options.edits, seed=options.seed)
    for kernel in options.kernels:
        for arm, on_unhealthy in ARMS.items():
            hparams = settings(options, kernel, on_unhealthy)
            if f"{kernel} {arm}" in results:
                continue
            model, tokenizer = load_model(hparams)
            found = drive(arm, hparams, model, tokenizer, requests, options.every)
            results[f"{kernel} {arm}"] = {"limits": hparams.health.model_dump(), "seed": options.seed, **found}
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
