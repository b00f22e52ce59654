"""Transactions that got in each other's way on PostgreSQL are rolled back whole: they are simply done again."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..errors import StoreConflict, StoreUnavailable
from ..progress import log

P = ParamSpec("P")
R = TypeVar("R")

TRIES = 12  # of an operation whose transaction conflicts with others
FIRST_WAIT, LONGEST_WAIT = 0.005, 5.0  # seconds; each wait is drawn below twice the last one's bound


def again(operation: Callable[P, R]) -> Callable[P, R]:
    """An operation of one transaction that is repeated after a conflict (serialisation failure, deadlock)."""

    @functools.wraps(operation)
    def tried(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(TRIES - 1):
            try:
                return operation(*args, **kwargs)
            except StoreConflict as error:
                log.debug("again after a conflict: %s", error.what)
                _wait(attempt)
        return operation(*args, **kwargs)

    return tried


def patiently(call: Callable[[], R], seconds: float) -> R:
    """The call's value; while the store cannot be reached, the call is repeated for so many seconds.

    Only for what may be done twice: reads, and puts under an idempotency key (an answer may be lost on its way).

    Raises:
        StoreUnavailable: the store has not come back.
    """
    end, attempt = time.monotonic() + seconds, 4
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            if time.monotonic() >= end:
                raise
            log.warning("the store is away, waiting: %s", error.what)
            _wait(attempt)
            attempt += 1


def _wait(attempt: int) -> None:
    # Drawn at random: those who collided must not come back together.
    time.sleep(random.uniform(0.0, min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)))
