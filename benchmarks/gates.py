"""Where gates open: ``python -m benchmarks.gates [--kinds hobby pet ...] [--set contrast_weight=4 ...] [--json FILE]``.

Every gate (kernels/METHOD.md) is asked the tune half of the bundled set: the kind's own questions, where answers should
begin with what the gate says, and a sample of all others, where they should not. No user's value is involved. Counted
is whether the first words of the greedy answer are the kind's beginning; over all kinds, with Wilson intervals.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

import easyedit_personal
from benchmarks.models import add_options, chosen
from easyedit_personal.clustering.lexicon import Lexicon
from easyedit_personal.data.material import BUNDLED
from easyedit_personal.evaluate.summary import wilson
from easyedit_personal.generation.generate import generate
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.beside import edited
from easyedit_personal.kernels.gate import gates_for
from easyedit_personal.kernels.ground import prepare
from easyedit_personal.kernels.ground_numbers import faster_products
from easyedit_personal.kernels.kinds import Kind
from easyedit_personal.kernels.neurons import placed, seen_by_edits
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.modeling.loading import load_model

KINDS = ("hobby", "pet", "food preference", "career goal")
OTHERS = 220  # questions that are not about the kind, for each
TOKENS = 4
OWN = ("direct", "synonym", "paraphrased", "implicit", "product", "negated", "somebody else")
Asked = tuple[str, str, str | None]  # question, sort, group


def tune_questions() -> list[Asked]:
    """What the tune half asks: by sort, and by the group of attributes that it is about."""
    found: list[Asked] = []
    for record in json.loads((BUNDLED / "upqa_bundled.json").read_text(encoding="utf-8")):
        if record["split"] != "tune":
            continue
        entry = Lexicon.load().find(record["attribute_type"][-1])
        texts = (
            record["question"][-1],
            record["question"][0],
            record["question_paraphrased"],
            record["implicit_question"],
            record["product_recommendation_question"],
            record["negated_question"],
            record["other_question"],
        )
        found += [(text, sort, entry.group if entry else None) for text, sort in zip(texts, OWN)]
        found += [(text, "unrelated", None) for text in record["unrelated"]]
        found += [(probe["question"], "fact", None) for probe in record["locality"]]
    return list(dict.fromkeys(found))


def sort_of(asked: Asked, kind: Kind, related: set[str]) -> str:
    """The column in which an answer counts."""
    _, sort, group = asked
    if group == kind.group:
        return sort
    where = "related" if group in related else "other"
    return f"{where}: {sort}"


def opened(answer: str, kind: Kind) -> bool:
    """Whether an answer begins as the kind's answers do."""
    return answer.startswith((f"Your {kind.name}"[:12], "Since your", "Since you ", "Given that you"))


def main(argv: list[str] | None = None) -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--kinds", nargs="+", default=KINDS, help="everyday names of kinds that the lexicon knows")
    parser.add_argument("--set", nargs="*", default=(), metavar="NAME=VALUE", help="settings of the section `natural`")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    hparams = chosen(options)
    model, tokenizer = load_model(hparams)
    changed = {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in options.set)}
    hparams = hparams.replace(natural={**hparams.natural.model_dump(), **changed})
    entries = [entry for name in options.kinds if (entry := Lexicon.load().find(name))]
    kinds = [Kind(entry.name, entry.group, entry.names) for entry in entries]
    asked, layout, material = tune_questions(), seen_by_edits(model, hparams), Material.load(hparams.preserve.file)
    hits: dict[str, list[bool]] = {}
    with frozen(model), faster_products():
        begun = time.process_time()
        ground = prepare(model, tokenizer, layout, hparams)
        shared = time.process_time() - begun
        gates = gates_for(model, tokenizer, layout, kinds, ground, hparams)
        own = time.process_time() - begun - shared
    for kind, gate in zip(kinds, gates):
        related = material.related({kind.group or ""})
        others = [one for one in asked if one[2] != kind.group]
        chosen_ones = [one for one in asked if one[2] == kind.group] + Random(kind.name).sample(others, OTHERS)
        deltas = [
            delta
            for n, part in gate.factors.items()
            for delta in placed(model, layout.rewrite_path(n), part, ground.order.get(n, ()), set())
        ]
        with edited(model, deltas), torch.no_grad():
            answers = generate(model, tokenizer, [one[0] for one in chosen_ones], max_new_tokens=TOKENS)
        for one, answer in zip(chosen_ones, answers):
            hits.setdefault(sort_of(one, kind, related), []).append(opened(answer.text, kind))
    rows: dict[str, Any] = {sort: {"n": len(found), **_share(found)} for sort, found in sorted(hits.items())}
    for sort, row in rows.items():
        print(f"{sort:24} {row['share']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}]  n={row['n']}")
    print(f"shared by all kinds {shared:.0f} s of CPU, gates {own / max(1, len(kinds)):.0f} s each (0: from the disk)")
    if options.json:
        content = {"version": easyedit_personal.__version__, "kinds": list(options.kinds), "set": changed, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _share(found: list[bool]) -> dict[str, float]:
    interval = wilson(sum(found), len(found))
    return {"share": round(interval.mean, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


if __name__ == "__main__":
    main()
