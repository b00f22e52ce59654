"""Which settings suit each of EasyEdit's editors: at most twenty trials each on the tune half, a line per trial.

The log is the result: a trial that stands in it is not run again, so the command may be stopped at any time. A method's
trials are drawn from its grid in one fixed order, and methods take turns, so that a sweep cut short is a fair one.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

import yaml

from benchmarks.models import chosen
from benchmarks.sweep import GAINS, LEAKS, RESULTS, run, tune_records
from easyedit_personal.errors import PersonalizationError
from easyedit_personal.modeling.loading import load_model

from .editors import CHOSEN, editor_of, grids
from .log import append, rows_of

MOST = 20
LOG = RESULTS / "easyedit-sweep-smollm2.jsonl"
HEAD = """# What the sweep chose for SmolLM2-135M-Instruct, from benchmarks/results/easyedit-sweep-smollm2.jsonl.
#
# Written by: python -m benchmarks.easyedit choose
# Of each method's trials on the tune half of the bundled set the one with the highest score, which is what answers
# reach minus what they break. Methods that are not named here keep the host's own numbers.
"""


def trials_of(name: str) -> list[dict[str, Any]]:
    """The settings of a method's trials, the same list in every call."""
    known = grids()[name]
    every = [dict(zip(known["grid"], values)) for values in itertools.product(*known["grid"].values())]
    random.Random(0).shuffle(every)
    return [{**known.get("fixed", {}), **one} for one in every[:MOST]]


def score(figures: dict[str, float]) -> float:
    """Per cent of answers that reach what they should, minus per cent that break something, in the mean."""
    broken = [figures[kind] for kind in LEAKS if kind in figures] + [100 - figures["facts"]]
    return round(sum(figures[kind] for kind in GAINS) / len(GAINS) - sum(broken) / len(broken), 1)


def sweep(options: Any) -> int:
    """Run what the log lacks, methods in turn."""
    log = options.log or LOG
    done = [(row["method"], row["settings"], row["users"]) for row in rows_of(log)]
    rounds = itertools.zip_longest(
        *([(name, one) for one in trials_of(name)[: options.trials]] for name in options.methods)
    )
    todo = [trial for trials in rounds for trial in trials if trial and (*trial, options.users) not in done]
    hparams = chosen(options)
    model, tokenizer = load_model(hparams)
    records = tune_records(options.users)
    for name, settings in todo:
        append(log, _trial(model, tokenizer, records, hparams, name, settings))
    return 0


def _trial(
    model: Any, tokenizer: Any, records: Sequence[Any], hparams: Any, name: str, settings: dict[str, Any]
) -> dict[str, Any]:
    cluster = grids()[name]["cluster"]
    row = {"method": name, "settings": settings, "users": len(records), "cluster": cluster}
    used = time.process_time()
    try:
        figures = run(model, tokenizer, list(records), hparams, cluster, editor_of(name, settings))
    except (PersonalizationError, RuntimeError) as error:  # the latter from edited models of the host's, when asked
        return {**row, "error": str(error).splitlines()[0]}
    spent = round((time.process_time() - used) / len(records), 1)
    return {**row, "score": score(figures), **figures, "cpu_s_with_asking": spent}


def choose(options: Any) -> int:
    """Write the best trial of every method into the file that the table reads, and print how many there were."""
    rows = rows_of(options.log or LOG)
    most = {name: max(row["users"] for row in rows if row["method"] == name) for name in {r["method"] for r in rows}}
    rows = [row for row in rows if row["users"] == most[row["method"]]]  # scores of few users are not those of many
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = best.get(row["method"])
        if "score" in row and (known is None or row["score"] > known["score"]):
            best[row["method"]] = row
    text = HEAD
    for name, row in best.items():
        tried = sum(other["method"] == name for other in rows)
        keys = yaml.safe_dump(row["settings"], default_flow_style=True, width=1000).strip()
        text += f"{name}: {keys}  # of {tried} trials, {row['users']} users, cluster {row['cluster']}\n"
        print(f"{name}: {tried} trials, best score {row['score']}: {keys}")
    CHOSEN.write_text(text, encoding="utf-8")
    return 0
