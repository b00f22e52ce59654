"""Who gets which task when, the same for local processes and for Ray: only starting, submitting and waiting differ.

A worker that dies or hangs loses its batch; the batch's items are then tried one by one, so that only the one to blame
is given up. One task per worker is under way, and as many wait; the rest is still in the source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..errors import EngineError
from ..progress import log
from .base import Limits, Outcome, now, raised

TICK = 1.0  # seconds between two looks at the clock
GRACE = 15.0  # seconds beyond the time limit in which a worker has to end itself
STILLBORN = 3  # workers in a row that may die before they are ready

WorkerId = int
Kind = Literal["ready", "beat", "done", "raised", "died"]


@dataclass(frozen=True, slots=True)
class Event:
    """What was heard of a worker: ready, beat, done (with reports), raised (with ``described``), died (with why)."""

    worker: WorkerId
    kind: Kind
    value: Any = None


class WorkerPool(Protocol):
    """Workers as an engine makes them; they are known by number.

    Attributes:
        beats: whether something is heard of a worker between the items of a batch.
    """

    beats: bool

    def start(self) -> WorkerId:
        """Start another worker, without waiting for it."""
        ...

    def submit(self, worker: WorkerId, items: Sequence[Any]) -> None:
        """Have a worker do a batch; one that is dead will be reported by ``wait``."""
        ...

    def wait(self, seconds: float) -> Iterable[Event]:
        """What has happened, after at most so many seconds."""
        ...

    def kill(self, worker: WorkerId) -> None:
        """End a worker at once, whatever it is doing; nothing is heard of it any more."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


@dataclass
class _Task:
    items: tuple[Any, ...]
    deaths: int = 0
    started: float = 0.0
    heard: float = 0.0


@dataclass
class Dispatcher:
    """One run of an engine.

    Args:
        pool: makes the workers.
        workers: how many.
        limits: patience.
    """

    pool: WorkerPool
    workers: int
    limits: Limits
    _waiting: deque[_Task] = field(default_factory=deque)
    _starting: dict[WorkerId, float] = field(default_factory=dict)
    _idle: list[WorkerId] = field(default_factory=list)
    _busy: dict[WorkerId, _Task] = field(default_factory=dict)
    _stillborn: int = 0

    def run(self, batches: Iterable[Sequence[Any]]) -> Iterator[Outcome]:
        """See ``Engine.run``."""
        source = iter(batches)
        try:
            while self._fill(source) or self._busy:
                self._start_workers()
                self._submit()
                for event in self.pool.wait(TICK):
                    outcome = self._heard(event)
                    if outcome is not None:
                        yield outcome
                yield from self._overdue()
        finally:
            self.pool.close()

    def _fill(self, source: Iterator[Sequence[Any]]) -> bool:
        """Take as many tasks from the source as there are workers; whether any wait."""
        while len(self._waiting) < self.workers:
            batch = next(source, None)
            if batch is None:
                break
            self._waiting.append(_Task(tuple(batch)))
        return bool(self._waiting)

    def _start_workers(self) -> None:
        here = len(self._starting) + len(self._idle)
        for _ in range(min(len(self._waiting) - here, self.workers - here - len(self._busy))):
            self._starting[self.pool.start()] = now()

    def _submit(self) -> None:
        while self._idle and self._waiting:
            worker, task = self._idle.pop(), self._waiting.popleft()
            task.started = task.heard = now()
            self._busy[worker] = task
            self.pool.submit(worker, task.items)

    def _heard(self, event: Event) -> Outcome | None:
        if event.kind == "raised":
            raise raised(*event.value)
        if event.kind == "ready":
            self._starting.pop(event.worker, None)
            self._idle.append(event.worker)
            self._stillborn = 0
        elif event.kind == "beat" and event.worker in self._busy:
            self._busy[event.worker].heard = now()
        elif event.kind == "done":
            task = self._busy.pop(event.worker)
            self._idle.append(event.worker)
            return Outcome(task.items, event.value, seconds=now() - task.started)
        elif event.kind == "died":
            return self._died(event.worker, str(event.value))
        return None

    def _died(self, worker: WorkerId, why: str) -> Outcome | None:
        """Whoever dies at rest is replaced when there is work; a batch is tried again, item by item."""
        with suppress(ValueError):
            self._idle.remove(worker)
        if self._starting.pop(worker, None) is not None:
            self._stillborn += 1
            if self._stillborn > STILLBORN:
                raise EngineError(
                    f"Workers die before they have taken their first task, the last one: {why}.",
                    cause="not enough memory for the model in each of them, or a script that starts its work outside "
                    "of `if __name__ == '__main__':`",
                    remedy="fewer workers, or a smaller model",
                )
        task = self._busy.pop(worker, None)
        return self._lost(task, why) if task else None

    def _lost(self, task: _Task, why: str) -> Outcome | None:
        limit, taken = self.limits.seconds, now() - task.heard
        if limit is not None and taken >= limit * 0.98:
            why = f"it took longer than {limit:g} s, and was ended"
        log.warning("a worker with %d items is lost: %s", len(task.items), why)
        if len(task.items) > 1:
            self._waiting.extendleft(_Task((item,)) for item in reversed(task.items))
        elif task.deaths < self.limits.retries:
            self._waiting.appendleft(_Task(task.items, task.deaths + 1))
        else:
            return Outcome(task.items, error=f"given up after {task.deaths + 1} attempts: {why}", seconds=taken)
        return None

    def _overdue(self) -> Iterator[Outcome]:
        """End workers that should have ended themselves, for example because they were stopped, or their machine."""
        limit = self.limits.seconds
        for worker, task in list(self._busy.items()) if limit is not None else ():
            items = 1 if self.pool.beats else len(task.items)
            if now() - task.heard > limit * items + GRACE:  # type: ignore[operator]
                del self._busy[worker]
                self.pool.kill(worker)
                if (outcome := self._lost(task, "nothing was heard of it")) is not None:
                    yield outcome
        if self._starting and not self._idle and not self._busy:
            longest = now() - min(self._starting.values())
            if longest > self.limits.start:
                raise EngineError(
                    f"No worker was ready after {longest:.0f} s.",
                    cause="the cluster has no room for any, or loading the model takes longer",
                    remedy="ask for less per worker, or make room",
                )
