"""Our own edits of a loaded model: sixteen users in a batch against one by one, and what one edit takes.

``users-16`` holds ``edit_many`` against ``personalize`` for a sample of the same users, health checks included; there
is no host here: ``theirs`` is one by one. ``one-user`` says where the CPU seconds of one edit go.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

from easyedit_personal import Preference, edit_many
from easyedit_personal.cli.session import find_settings
from easyedit_personal.editing import algorithm, health_figures
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.editing.health import HealthBaseline
from easyedit_personal.evaluate.memory import peak_mib, reset_peak
from easyedit_personal.kernels import natural, user_value
from easyedit_personal.types import EditResult

from .machine import resident_mib, tidy
from .options import Options
from .pairs import spread
from .shapes import model_of

# Four kinds, whose gates are learned before anything is timed; values of one to six tokens.
VALUES = {
    "hobby": ("falconry", "collecting old stamps", "bird watching", "playing the cello"),
    "pet": ("a grey parrot", "two cats", "a tortoise named Ada", "an old greyhound"),
    "food preference": ("vegan", "spicy noodles", "home-made soup", "anything with garlic"),
    "career goal": ("opening a bakery", "becoming a nurse", "leading a design team", "writing a novel"),
}
PARTS: Sequence[tuple[str, Any, str]] = (
    ("beginnings' states", user_value, "EditedRows"),
    ("optimisation", user_value, "adam"),
    ("values, whole", natural, "learn_values"),
    ("health: own words", health_figures, "_written"),
    ("health: surprise", HealthBaseline, "surprises"),
    ("health, whole", algorithm, "check_health"),
)


def people(count: int) -> list[list[Preference]]:
    """One preference each, the four kinds in turn."""
    found = [
        Preference(kind, f"What's my {kind}?", values[place], user=f"{kind} {place}")
        for place in range(4)
        for kind, values in VALUES.items()
    ]
    return [[one] for one in found[:count]]


def users_16(options: Options) -> dict[str, Any]:
    """``difference`` is the largest relative one of the users' updates, together against alone.

    A run takes minutes, so nothing is run only to warm up but one edit, and operations are not counted; the sample is
    edited one by one before and after every batch.
    """
    model, tokenizer, hparams = _ready(options)
    users, stride = people(16), 16 // (options.sample or 16)
    alone = [_timed(model, partial(personalize, model, tokenizer, one, hparams)) for one in users[::stride]]
    together, ratios = [], []
    for _ in range(options.pairs):
        together.append(_timed(model, partial(edit_many, model, tokenizer, users, hparams)))
        alone += [_timed(model, partial(personalize, model, tokenizer, one, hparams)) for one in users[::stride]]
        ratios.append(statistics.median(each["cpu_seconds"] for each in alone) * 16 / together[-1]["cpu_seconds"])
    apart = [_apart(together[-1]["result"][n * stride], one["result"]) for n, one in enumerate(alone[: 16 // stride])]
    return {
        "case": options.case,
        "ratio": spread(ratios),
        "ours": _report(together, 16),
        "theirs": _report(alone, 1),
        "difference": max(apart),
        "model": options.model,
        "users": 16,
        "kinds": len(VALUES),
        "seconds_are": "per user",
    }


def one_user(options: Options) -> dict[str, Any]:
    """Three preferences of one user in turn; ``ratio`` is the third edit's CPU seconds over the first's."""
    model, tokenizer, hparams = _ready(options)
    found, ratios = [], []
    for _ in range(options.pairs):
        have: list[Any] = []
        for one in people(3):
            with _clocks() as spent:
                run = _timed(model, partial(personalize, model, tokenizer, one, hparams, beside=have))
            have += run["result"].deltas
            found.append({"cpu_seconds": run["cpu_seconds"], **spent})
        ratios.append(found[-1]["cpu_seconds"] / found[-3]["cpu_seconds"])
    parts = {name: spread([one.get(name, 0.0) for one in found]) for name in ("cpu_seconds", *(n for n, *_ in PARTS))}
    return {
        "case": options.case,
        "ratio": spread(ratios),
        "ours": {"parts": parts},
        "theirs": {},
        "difference": None,
        "model": options.model,
        "seconds_are": "CPU seconds per edit",
    }


def _ready(options: Options) -> tuple[Any, Any, Any]:
    """Model, tokenizer and settings, after one edit: a model's first edit reads what all later ones share."""
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams = find_settings(options.model, options.hparams, "lowrank", options.device)
    personalize(model, tokenizer, people(1)[0], hparams)
    return model, tokenizer, hparams


def _timed(model: Any, run: Callable[[], Any]) -> dict[str, Any]:
    tidy()
    reset_peak()
    before, started, used = resident_mib(), time.perf_counter(), time.process_time()
    result = run()
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used}
    return {**spent, "peak_mib": peak_mib(model) - before, "result": result}


def _report(runs: Sequence[dict[str, Any]], units: int) -> dict[str, Any]:
    wall, cpu = ([run[name] / units for run in runs] for name in ("seconds", "cpu_seconds"))
    peak = max(run["peak_mib"] for run in runs)
    return {
        "seconds": round(statistics.median(wall), 3),
        "cpu_seconds": round(statistics.median(cpu), 3),
        "cpu_seconds_min": round(min(cpu), 3),
        "cpu_seconds_max": round(max(cpu), 3),
        "runs": len(runs),
        "peak_mib": round(peak, 1),
    }


@contextmanager
def _clocks() -> Iterator[dict[str, float]]:
    """Inside, the CPU seconds of ``PARTS`` are added up."""
    spent: dict[str, float] = {}

    def clocked(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            used = time.process_time()
            try:
                return work(*given, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.process_time() - used

        return run

    with ExitStack() as stack:
        for name, owner, attribute in PARTS:
            stack.enter_context(mock.patch.object(owner, attribute, clocked(name, getattr(owner, attribute))))
        yield spent


def _apart(one: EditResult, other: EditResult) -> float:
    pairs = zip(one.deltas, other.deltas, strict=True)
    return max(float((a.update() - b.update()).norm() / b.update().norm()) for a, b in pairs)
