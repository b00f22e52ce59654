"""What a preference takes in a store: ``python -m benchmarks.preference_bytes [--users 3] [--json FILE]``.

Natural answers of the tune half's first users of each kind are learned once, and kept in two ways: as releases up to
the schema 4 did (gate and value together, float32, for every user), and as they are now (the gate once, values in two
bytes per number). Said is

- what stores with 1, 10 and 100 users of the same three kinds take on the disk in either way (the values repeat);
- whether anything else changes: of the answers to six questions per user, asked of the model with the values as they
  were learned and as they are kept, how many are the same word for word.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import easyedit_personal
from benchmarks.models import add_options, chosen
from easyedit_personal import UPQADataset
from easyedit_personal.data.records import UPQAItem
from easyedit_personal.editing.phrases import cluster_phrases
from easyedit_personal.editing.requests import as_request, check_requests
from easyedit_personal.evaluate.provenance import commit
from easyedit_personal.evaluate.summary import wilson
from easyedit_personal.generation.generate import generate
from easyedit_personal.generation.score import contained
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.gate import gates_for
from easyedit_personal.kernels.ground import prepare
from easyedit_personal.kernels.ground_numbers import faster_products
from easyedit_personal.kernels.kinds import kind_of
from easyedit_personal.kernels.neurons import placed, seen_by_edits
from easyedit_personal.kernels.user_value import learn_values
from easyedit_personal.kernels.value_start import Wanted
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.serving.multi_adapter import merged, mixed
from easyedit_personal.store import EditStore
from easyedit_personal.types import WeightDelta, own_bytes, shared_bytes

KINDS = ("hobby", "pet", "food preference")
SIZES = (1, 10, 100)  # users
TOKENS = 32


@dataclass(frozen=True, slots=True)
class Edit:
    """One user's preference as it was learned, by layer; ``value`` is not rounded yet."""

    item: UPQAItem
    gate: list[WeightDelta]
    value: list[WeightDelta]

    @property
    def kept(self) -> list[WeightDelta]:
        """As it is kept now."""
        rounded = (delta.to(torch.bfloat16).to(torch.float32) for delta in self.value)
        return [*(replace(delta, shared=True) for delta in self.gate), *rounded]

    @property
    def learned(self) -> list[WeightDelta]:
        """As it was kept before: one update per layer."""
        return list(merged([*self.gate, *self.value]).values())


def learn(
    model: nn.Module, tokenizer: Any, items: Sequence[UPQAItem], hparams: PersonalizationHyperParams
) -> list[Edit]:
    """What ``kernels.natural`` learns of one preference each, before it rounds the values."""
    layout, wanted = seen_by_edits(model, hparams), []
    with frozen(model), faster_products():
        ground = prepare(model, tokenizer, layout, hparams)
        for item in items:
            requests, _ = cluster_phrases(model, tokenizer, check_requests([as_request(item.preference())]), hparams)
            kind = kind_of(requests)
            assert kind is not None, item.subject
            gate = gates_for(model, tokenizer, layout, [kind], ground, hparams)[0]
            wanted.append(Wanted(kind, item.target, requests, gate))
        values = learn_values(model, tokenizer, layout, wanted, ground, hparams)
    found = []
    for item, one, value in zip(items, wanted, values):
        edit = Edit(item, [], [])
        for n, gate in one.gate.factors.items():
            place = partial(placed, model, layout.rewrite_path(n), order=ground.order.get(n, ()), taken=set())
            edit.gate.extend(place(gate))
            edit.value.extend(place(value[n].kept()))
        found.append(edit)
    return found


def asked(item: UPQAItem) -> list[str]:
    """Six questions: four that the value answers, and two that it does not."""
    return [item.question, item.paraphrase, item.implicit, item.product, item.negated, item.unrelated[0]]


def compare(model: nn.Module, tokenizer: Any, edits: Sequence[Edit]) -> dict[str, Any]:
    """Answers with the values as they were learned, and as they are kept."""
    answers = []
    for way in ("learned", "kept"):
        rows = [(number, question) for number, edit in enumerate(edits) for question in asked(edit.item)]
        factors = [merged(getattr(edit, way)) for edit in edits]
        with mixed(model, [factors[number] for number, _ in rows]) as adapters:
            said = generate(
                model,
                tokenizer,
                [question for _, question in rows],
                max_new_tokens=TOKENS,
                owners=[number for number, _ in rows],
                set_rows=adapters.set_rows,
            )
        answers.append([answer.text for answer in said])
    equal = [one == other for one, other in zip(*answers)]
    values = [[contained(text, edits[n].item.target) for (n, _), text in zip(rows, some)] for some in answers]
    interval = wilson(sum(equal), len(equal))
    return {
        "questions": len(equal),
        "equal": sum(equal),
        "share": round(interval.mean, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "with_the_value_learned": sum(values[0]),
        "with_the_value_kept": sum(values[1]),
        "different": [
            {"question": question, "learned": one, "kept": other}
            for (_, question), one, other in zip(rows, *answers)
            if one != other
        ],
    }


def stored(edits: Sequence[Edit], users: int, way: str) -> dict[str, float]:
    """A store with so many users who have one preference of each kind."""
    kinds = [[edit for edit in edits if edit.item.subject == kind] for kind in KINDS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edits.db"
        with EditStore.open(path) as store:
            for number in range(users):
                for own in kinds:
                    edit = own[number % len(own)]
                    said = replace(edit.item.preference(), user=f"user-{number}")
                    store.put(f"user-{number}", getattr(edit, way), preference=said, kernel="lowrank")
            stats = store.stats()
        size = path.stat().st_size
    return {
        "file_bytes": size,
        "own_bytes_per_preference": round(stats["factor_bytes"] / stats["edits"]),
        "shared_bytes": stats["shared_bytes"],
        "file_bytes_per_preference": round(size / stats["edits"]),
    }


def main(argv: list[str] | None = None) -> None:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--users", type=int, default=3, help="of each kind whose values are learned")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    hparams = chosen(options)
    model, tokenizer = load_model(hparams)
    tune = UPQADataset.bundled("tune").items
    items = [item for kind in KINDS for item in [one for one in tune if one.subject == kind][: options.users]]
    edits = learn(model, tokenizer, items, hparams)
    sizes = [own_bytes(edit.kept) for edit in edits]
    result = {
        "version": easyedit_personal.__version__,
        "commit": commit(),
        "model": hparams.model_name,
        "kinds": KINDS,
        "values": len(edits),
        "ranks": [edit.value[0].rank for edit in edits],
        "value_bytes": {"mean": round(sum(sizes) / len(sizes)), "largest": max(sizes)},
        "gate_bytes": shared_bytes(edits[0].kept),
        "stores": {
            str(users): {way: stored(edits, users, name) for way, name in (("before", "learned"), ("now", "kept"))}
            for users in SIZES
        },
        "answers": compare(model, tokenizer, edits),
    }
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
