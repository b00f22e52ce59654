"""Our own edits of a loaded model: sixteen users in a batch against one by one, and what one edit takes.

``users-16`` holds ``edit_many`` against ``personalize`` for a sample of the same users, health checks included; there is no
host here: ``theirs`` is one by one. ``parts`` says where one edit's CPU seconds go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from easyedit_personal import Preference, edit_many
from easyedit_personal.cli.session import find_settings
from easyedit_personal.editing import algorithm, health_figures
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.editing.health import HealthBaseline
from easyedit_personal.kernels import natural, user_value
from easyedit_personal.types import EditResult

from .edits import report
from .options import Options
from .pairs import Side, compare
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
    """``difference`` is the largest relative one of the users' updates, together against alone."""
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams, users = find_settings(options.model, options.hparams, "lowrank", options.device), people(16)
    for one in people(4):
        personalize(model, tokenizer, one, hparams)  # gates, and what a model's first edits read
    some = users[:: len(users) // options.sample] if options.sample else users
    ours = Side(lambda: edit_many(model, tokenizer, users, hparams), len(users))
    theirs = Side(lambda: [personalize(model, tokenizer, one, hparams) for one in some], len(some))
    outcome = compare(ours, theirs, options.pairs, model)
    by_user = {user[0].user: result for user, result in zip(users, outcome.ours_result)}
    apart = [_apart(by_user[one[0].user], alone) for one, alone in zip(some, outcome.theirs_result)]
    more = {"users": len(users), "kinds": len(VALUES), "seconds_are": "per user", "parts": parts_of_one(options)}
    return report(options, outcome, max(apart), **more)


def parts_of_one(options: Options) -> list[dict[str, float]]:
    """CPU seconds of the parts of one edit after another of one user: the third costs what the first does."""
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams = find_settings(options.model, options.hparams, "lowrank", options.device)
    have, found = [], []
    for one in people(3):
        with _clocks() as spent:
            started, used = time.perf_counter(), time.process_time()
            have += personalize(model, tokenizer, one, hparams, beside=have).deltas
            spent |= {"cpu": time.process_time() - used, "wall": time.perf_counter() - started}
        found.append({name: round(seconds, 2) for name, seconds in spent.items()})
    return found


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
