"""What engines have in common: the records, and what a worker does with one task.

A worker opens its work once (loads the base model, opens the store) and then takes task after task; results are
written where they belong by the worker, only small reports come back.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ConfigError, EngineError, PersonalizationError

Do = Callable[[Sequence[Any]], Iterable[Any]]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Work(Protocol):
    """What is to be done; travels to the workers by pickle, so it holds settings and no models.

    What is the fault of one item is part of that item's report. An exception means that nothing works (the store is
    gone, the model cannot be loaded) and ends the whole run.
    """

    def open(self) -> AbstractContextManager[Do]:
        """Called once per worker; gives the function that takes a batch of items and yields a report for each."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient an engine is.

    Attributes:
        workers: how many at a time; None takes what the machine or cluster has.
        threads: of torch, per worker.
        retries: how often an item that killed its worker is tried again by itself.
        seconds: that one item may take before its worker is ended; None means for ever.
        start: seconds within which the first worker has to be ready.
        cpus, gpus: of each worker, on Ray; without ``gpus`` each takes one where the cluster has GPUs.
    """

    workers: int | None = None
    threads: int = 1
    retries: int = 1
    seconds: float | None = None
    start: float = 600.0
    cpus: float = 1.0
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("workers", self.workers, 1),
            ("threads", self.threads, 1),
            ("retries", self.retries, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"The engine's {name} is out of range.", got=value, needed=f"{least} or more")
        for name, limit in (("time limit", self.seconds), ("start limit", self.start)):
            if limit is not None and not limit > 0:
                raise ConfigError(f"The engine's {name} is out of range.", got=limit, needed="seconds, more than 0")
        if not self.cpus + (self.gpus or 0.0) > 0 or min(self.cpus, self.gpus or 0.0) < 0:
            raise ConfigError("A worker needs some CPU or GPU.", got=f"{self.cpus} CPUs, {self.gpus} GPUs")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task.

    Attributes:
        items: what it was about.
        reports: what the work said of each item; empty where ``error`` is set.
        error: why a single item was given up: it killed its worker, or took too long, each time it was tried.
        seconds: from giving the task to a worker until its last word.
    """

    items: tuple[Any, ...]
    reports: tuple[Any, ...] = ()
    error: str | None = None
    seconds: float = 0.0


class Engine(Protocol):
    """Carries out tasks.

    Attributes:
        name: as on the command line.
    """

    name: str

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""
        ...

    def run(self, work: Work, batches: Iterable[Sequence[Any]]) -> Iterator[Outcome]:
        """The outcome of every batch, as they come, in any order; a batch whose worker died comes back item by item.

        ``batches`` is read as far as there are workers, and never further than twice their number ahead.

        Raises:
            EngineError: no worker could be started, or the work raised something that is no error of ours.
            PersonalizationError: what the work raised.
        """
        ...


def watched(do: Do, items: Sequence[Any], seconds: float | None, beat: Callable[[], None]) -> tuple[Any, ...]:
    """The reports of a batch; this process ends by itself when one item takes too long.

    The clock is in C (``faulthandler``): it also ends what never comes back to the interpreter, and says on stderr
    where it hung.

    Args:
        beat: called after every item.
    """
    reports = []
    try:
        _wind(seconds)
        for report in do(items):
            reports.append(report)
            _wind(seconds)
            beat()
    finally:
        if seconds is not None:
            faulthandler.cancel_dump_traceback_later()
    return tuple(reports)


def _wind(seconds: float | None) -> None:
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)


def described(error: BaseException) -> tuple[str, str, str]:
    """An exception as text that can travel: its class if it is one of ours, its message, where it was raised."""
    import traceback

    ours = type(error).__name__ if isinstance(error, PersonalizationError) else ""
    text = str(error) if ours else f"{type(error).__name__}: {error}"
    return ours, text, "".join(traceback.format_exception(error)[-3:])


def raised(ours: str, text: str, trace: str) -> PersonalizationError:
    """What ``described`` described, to be raised here."""
    from .. import errors

    kind = getattr(errors, ours, None) if ours else None
    if isinstance(kind, type) and issubclass(kind, PersonalizationError):
        return kind(text)
    return EngineError(f"The work failed: {text}", cause=trace.strip())


@contextmanager
def few_threads(count: int) -> Iterator[None]:
    """Environment variables that make processes started meanwhile use so many threads for arithmetic."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads for torch in this process: sums come out differently, in the last bit, with other numbers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def now() -> float:
    """Seconds that only go forward."""
    return time.monotonic()
