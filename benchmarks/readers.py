"""How well can a linear reader tell a kind's questions, the more questions it has seen?

``python -m benchmarks.readers [--kinds hobby pet ...] [--layers 24 27 28] [--questions 60 240 480] [--json FILE]``

A gate is linear in the keys of an edited down projection where answers begin (kernels/METHOD.md), so that a logistic
regression on these keys says what it could do at best. It is fitted on questions of ours (``benchmarks/questions``, of
which none is asked by an evaluation) against other kinds' and against what asks for nothing, and asked with the tune
half of the bundled set. The threshold lets a share of all other questions through; counted are the kind's own above it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from benchmarks.gates import OWN, Asked, tune_questions
from benchmarks.models import add_options, chosen
from benchmarks.separability import classifier, keys_where_answers_begin
from easyedit_personal.clustering.lexicon import Lexicon
from easyedit_personal.data.beginnings import contrasts
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.modeling.loading import load_model

FOLDER = Path(__file__).parent / "questions"
FILES = ("home", "food", "culture", "leisure")
PER_KIND = 25  # questions of every other kind that a reader learns to refuse
NOTHING = ("tasks", "everyday", "facts", "open", "negated_unnamed", "somebody_else_unnamed")
NEAR = {"negated": 20, "somebody_else": 30, "general": 10}  # about the kind, but not asking for it
PASSING = 0.05
SOUGHT = OWN[:5]


def our_questions() -> dict[str, list[str]]:
    """By group of attributes: every question that the user may ask about their own."""
    found: dict[str, list[str]] = {}
    for name in FILES:
        for group, parts in yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")).items():
            found.setdefault(group, []).extend(text for texts in parts.values() for text in texts)
    return found


def near(name: str, people: Sequence[str], rng: Random) -> list[str]:
    """Questions about what the attribute is not, about somebody else's, and about it in general."""
    texts = [text for part, count in NEAR.items() for text in rng.sample(getattr(contrasts(), part), count)]
    return [text.replace("{n}", name).replace("{who}", rng.choice(list(people))) for text in texts]


def shares(scores: np.ndarray, asked: Sequence[Asked], group: str, related: set[str]) -> dict[str, list[bool]]:
    """By sort of question about the kind, which are above the threshold; it lets PASSING of the others through."""
    sought = np.array([g == group and sort in SOUGHT for _, sort, g in asked])
    aside = np.array([g in related and g != group for _, _, g in asked])
    threshold = np.quantile(scores[~sought & ~aside], 1 - PASSING)
    return {
        sort: [bool(scores[i] > threshold) for i, (_, s, g) in enumerate(asked) if g == group and s == sort]
        for sort in OWN
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["hobby", "pet", "food preference", "favorite book"])
    parser.add_argument("--layers", nargs="+", type=int, default=[24, 27, 28], help="alone, and all of them together")
    parser.add_argument("--questions", nargs="+", type=int, default=[60, 240, 480])
    parser.add_argument("--json", type=Path)
    add_options(parser)
    options = parser.parse_args()
    model, tokenizer = load_model(chosen(options))
    others = yaml.safe_load((FOLDER / "others.yaml").read_text(encoding="utf-8"))
    material, rng, ours, asked = Material.load(), Random(0), our_questions(), tune_questions()
    nothing = [text for part in NOTHING for text in others[part]]
    sampled = {group: rng.sample(texts, PER_KIND) for group, texts in ours.items()}
    entries = [entry for name in options.kinds if (entry := Lexicon.load().find(name))]
    own = {
        entry.group: rng.sample(ours[entry.group], min(max(options.questions), len(ours[entry.group])))
        for entry in entries
    }
    about = {entry.group: near(entry.name, material.people, rng) for entry in entries}
    texts = [*nothing, *(t for part in (sampled, own, about) for found in part.values() for t in found)]
    texts = list(dict.fromkeys([*texts, *(text for text, _, _ in asked)]))
    keys = keys_where_answers_begin(model, tokenizer, texts, options.layers)
    number = {text: i for i, text in enumerate(texts)}
    rows = lambda found, layers: np.concatenate([keys[n][[number[t] for t in found]] for n in layers], 1)
    results = []
    for layers in [*([n] for n in options.layers), options.layers]:
        for count in options.questions:
            hits: dict[str, list[bool]] = {sort: [] for sort in OWN}
            for entry in entries:
                related = material.related({entry.group})
                refused = [t for group, found in sampled.items() if group not in related for t in found]
                refused += [*about[entry.group], *nothing]
                wanted = own[entry.group][:count]
                labels = [1] * len(wanted) + [0] * len(refused)
                reader = classifier().fit(rows([*wanted, *refused], layers), labels)
                scores = reader.decision_function(rows([text for text, _, _ in asked], layers))
                for sort, found in shares(scores, asked, entry.group, related).items():
                    hits[sort] += found
            row: dict[str, Any] = {"layers": layers, "questions": count, "n": {s: len(f) for s, f in hits.items()}}
            row |= {"shares": {sort: round(float(np.mean(found)), 3) for sort, found in hits.items()}}
            results.append(row)
            print(f"layers {layers}, {count} questions: {row['shares']}", flush=True)
    if options.json:
        content = {"kinds": options.kinds, "passing": PASSING, "rows": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
