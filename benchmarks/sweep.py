"""Tries settings of a kernel on the tune split of the bundled set, and tells what they gain and what they break.

``python -m benchmarks.sweep --kernel lowrank --set lowrank.rank=1,2,4 --set preserve.weight=1.0,4.0 --users 24``
edits the model for each user with every combination of the ``--set`` values (on top of ``--hparams``), restores it in
between, and prints one row per combination. ``--json NAME`` writes ``benchmarks/results/sweep-NAME.json``.

Columns, in per cent of answers generated to their natural stop (at most 32 tokens):

- direct, para, impl, prod: answers of the edited model that contain the target;
- unrel, neg, other, attr, indir: answers that contain it although they must not: unrelated questions, the negated
  question, somebody else's, and direct and implicit questions about three other attribute types;
- facts: answers to held-out phrasings of world facts that are, word for word, those before the edit;
- same: the same for the unrelated and the three other attributes' questions;
- stop: answers that end by themselves; s: seconds per edit; KB: bytes of the factors in float32.

Only the tune split is read. The sweep's numbers choose defaults; they are no test results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import nn

import easyedit_personal
from benchmarks.models import add_options, chosen
from easyedit_personal.generation.generate import generate
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.beside import edited
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.registry import KERNELS
from easyedit_personal.types import EditRequest

BUNDLED = Path(easyedit_personal.__file__).parent / "data" / "bundled" / "upqa_bundled.json"
RESULTS = Path(__file__).parent / "results"
GAINS = {
    "direct": "question",
    "para": "question_paraphrased",
    "impl": "implicit_question",
    "prod": "product_recommendation_question",
}
LEAKS = ("unrel", "neg", "other", "attr", "indir")
MAX_NEW_TOKENS = 32

Probe = tuple[str, str]  # kind, question
Answer = tuple[str, bool]  # text, stopped by itself
# An editor with one user's requests: the edited model and the bytes to keep, for as long as the block lasts.
Editor = Callable[..., AbstractContextManager[tuple[nn.Module, int]]]


def tune_records(users: int) -> list[dict[str, Any]]:
    """``users`` records of the tune split, spread over the attribute types."""
    records = [r for r in json.loads(BUNDLED.read_text(encoding="utf-8")) if r["split"] == "tune"]
    by_type: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        by_type[record["attribute_type"][-1]].append(record)
    rounds = itertools.zip_longest(*by_type.values())
    return [record for group in rounds for record in group if record][:users]


def requests_of(record: dict[str, Any], cluster: int) -> list[EditRequest]:
    """The ``cluster`` last phrases of a record (the direct question is the last)."""
    pairs = list(zip(record["attribute_type"], record["question"]))[-cluster:]
    target = record["target"][-1]
    return [EditRequest(q, target, s if s in q else None, cluster=record["id"], user=record["id"]) for s, q in pairs]


def probes_of(record: dict[str, Any], records: list[dict[str, Any]]) -> list[Probe]:
    """Every question that a user's edited model is asked."""
    number = records.index(record)
    strangers = [r for r in records if r["attribute_type"][-1] != record["attribute_type"][-1]]
    others = [strangers[(number + 7 * k) % len(strangers)] for k in range(3)] if strangers else []
    probes = [(kind, record[key][-1] if kind == "direct" else record[key]) for kind, key in GAINS.items()]
    probes += [("unrel", question) for question in record["unrelated"]]
    probes += [("neg", record["negated_question"]), ("other", record["other_question"])]
    probes += [("attr", other["question"][-1]) for other in others]
    probes += [("indir", other["implicit_question"]) for other in others]
    probes += [("facts", fact["question"]) for fact in record["locality"]]
    return probes


def ask(model: nn.Module, tokenizer: Any, questions: list[str], hparams: PersonalizationHyperParams) -> list[Answer]:
    """Greedy answers to their natural stop."""
    said = generate(model, tokenizer, questions, prompt_format=hparams.prompt_format, max_new_tokens=MAX_NEW_TOKENS)
    return [(answer.text, answer.stopped) for answer in said]


@contextmanager
def by_kernel(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> Iterator[tuple[nn.Module, int]]:
    """Our own kernels as an editor."""
    deltas = KERNELS.get(hparams.kernel)(model, tokenizer, requests, hparams)
    with edited(model, deltas):
        yield model, sum(delta.nbytes for delta in deltas)


def run(
    model: nn.Module,
    tokenizer: Any,
    records: list[dict[str, Any]],
    hparams: PersonalizationHyperParams,
    cluster: int,
    editor: Editor = by_kernel,
) -> dict[str, float]:
    """One row of the table: shares in per cent, seconds and kilobytes per user."""
    hits: dict[str, list[bool]] = defaultdict(list)
    seconds, size = [], 0
    for record in records:
        probes = probes_of(record, records)
        questions = [question for _, question in probes]
        before = _before(model, tokenizer, questions, hparams)
        started = time.perf_counter()
        with editor(model, tokenizer, requests_of(record, cluster), hparams) as (changed, nbytes):
            seconds.append(time.perf_counter() - started)
            size += nbytes
            after = ask(changed, tokenizer, questions, hparams)
        target = record["target"][-1].casefold()
        for (kind, _), old, (new, stopped) in zip(probes, before, after):
            hits["stop"].append(stopped)
            if kind != "facts":
                hits[kind].append(target in new.casefold())
            if kind in ("facts", "unrel", "attr"):
                hits["facts" if kind == "facts" else "same"].append(old == new)
    figures = {kind: round(100 * sum(found) / len(found), 1) for kind, found in hits.items()}
    # The first edit also fills the caches that all later ones share.
    later = seconds[1:] or seconds
    return {**figures, "first_s": round(seconds[0], 2), "s": round(sum(later) / len(later), 2),
            "KB": round(size / len(records) / 1024, 1)}  # fmt: skip


_BEFORE: dict[str, str] = {}


def _before(model: nn.Module, tokenizer: Any, questions: list[str], hparams: PersonalizationHyperParams) -> list[str]:
    """What the unedited model answers; asked once per process, since the model is the same."""
    new = [question for question in dict.fromkeys(questions) if question not in _BEFORE]
    _BEFORE.update({q: text for q, (text, _) in zip(new, ask(model, tokenizer, new, hparams))})
    return [_BEFORE[question] for question in questions]


def combinations(settings: list[str]) -> list[dict[str, Any]]:
    """``key=a,b`` and ``other=c`` as a list of mappings; a value in brackets or braces is one YAML value."""
    axes = []
    for setting in settings:
        key, _, text = setting.partition("=")
        values = [text] if text[:1] in "[{" else text.split(",")
        axes.append([(key, yaml.safe_load(value)) for value in values])
    return [dict(combination) for combination in itertools.product(*axes)]


def changed(hparams: PersonalizationHyperParams, changes: dict[str, Any]) -> PersonalizationHyperParams:
    """``hparams`` with dotted keys replaced."""
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        value = [value] if key == "layers" and isinstance(value, int) else value
        hparams = hparams.replace(**({group: {name: value}} if group else {key: value}))
    return hparams


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print the table."""
    columns = ("setting", *GAINS, *LEAKS, "facts", "same", "stop", "first_s", "s", "KB")
    table = Table(title=title, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == "setting" else "right")
    for row in rows:
        table.add_row(*(str(row.get(column, "-")) for column in columns))
    Console(width=170).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the grid, print as it goes, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--kernel", default="lowrank", choices=KERNELS.names())
    parser.add_argument("--set", action="append", default=[], metavar="KEY=A,B", dest="settings")
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--cluster", type=int, nargs="+", default=[9])
    parser.add_argument("--json", default=None, metavar="NAME")
    options = parser.parse_args(arguments)

    base = chosen(options, options.kernel)
    model, tokenizer = load_model(base)
    records = tune_records(options.users)
    rows = []
    for changes in combinations(options.settings):
        for cluster in options.cluster:
            figures = run(model, tokenizer, records, changed(base, changes), cluster)
            setting = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in changes.items())
            rows.append({"setting": f"c{cluster} {setting}".strip(), "cluster": cluster, "changes": changes, **figures})
            print(" ".join(f"{k}={v}" for k, v in rows[-1].items() if k not in ("changes", "cluster")), flush=True)
    show(rows, f"{options.kernel}, {len(records)} users of the tune split")
    if options.json:
        RESULTS.mkdir(exist_ok=True)
        result = {
            "command": "python -m benchmarks.sweep " + " ".join(arguments if arguments is not None else sys.argv[1:]),
            "n_users": len(records),
            "base": base.to_dict(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "machine": f"{platform.machine()}, {os.cpu_count()} shared cores, {torch.get_num_threads()} thread",
            "rows": rows,
        }
        path = RESULTS / f"sweep-{options.json}.json"
        path.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
