"""Worker processes on this machine, started afresh (spawn): nothing of the parent's threads, locks or connections."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from .base import Limits, Outcome, Work, described, few_threads, now, watched
from .dispatch import Dispatcher, Event, WorkerId

# Not ``pebble.ProcessPool`` (looked at in 5.2.3): it schedules by itself, while ``Dispatcher`` has to, for Ray's sake;
# its workers have an initializer and nothing that closes what they opened; its time limit is for a whole batch.
BEAT = 1.0  # seconds between two signs of life
FAREWELL = 5.0  # seconds that workers at rest have for closing what they have open


class ProcessesEngine:
    """As many processes as there are cores, unless ``limits`` say otherwise."""

    name = "processes"

    def __init__(self, limits: Limits, address: str | None = None) -> None:
        self._limits = limits

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""
        return self._limits.workers or os.cpu_count() or 1

    def run(self, work: Work, batches: Iterable[Sequence[Any]]) -> Iterator[Outcome]:
        """See ``Engine.run``."""
        return Dispatcher(_Processes(work, self._limits), self.workers, self._limits).run(batches)


class _Processes:
    """A pool of processes, each at the other end of a pipe; the pipe's end is how a death is noticed."""

    beats = True

    def __init__(self, work: Work, limits: Limits) -> None:
        self._work, self._limits = work, limits
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[WorkerId, tuple[Any, Connection]] = {}
        self._resting: set[WorkerId] = set()
        self._started = 0

    def start(self) -> WorkerId:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._work, self._limits.seconds)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        with few_threads(self._limits.threads):
            process.start()
        theirs.close()
        self._started += 1
        self._workers[self._started] = (process, ours)
        return self._started

    def submit(self, worker: WorkerId, items: Sequence[Any]) -> None:
        self._resting.discard(worker)
        with suppress(OSError):  # it has died: ``wait`` will say so
            self._workers[worker][1].send(items)

    def wait(self, seconds: float) -> Iterable[Event]:
        workers = {pipe: worker for worker, (_, pipe) in self._workers.items()}
        for pipe in wait(list(workers), seconds):
            yield self._heard(workers[pipe], pipe)  # type: ignore[index, arg-type]

    def kill(self, worker: WorkerId) -> None:
        process, pipe = self._workers.pop(worker)
        process.kill()
        process.join()
        pipe.close()

    def close(self) -> None:
        for worker in self._resting:
            with suppress(OSError):
                self._workers[worker][1].send(None)  # close what you have open, and go
        for worker in list(self._workers):
            if worker in self._resting:
                self._workers[worker][0].join(FAREWELL)
            self.kill(worker)

    def _heard(self, worker: WorkerId, pipe: Connection) -> Event:
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            process, _ = self._workers.pop(worker)
            process.join()
            pipe.close()
            self._resting.discard(worker)
            return Event(worker, "died", _cause(process.exitcode))
        if kind in ("ready", "done"):
            self._resting.add(worker)
        return Event(worker, kind, value)


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process ended with {code}"


def _serve(pipe: Connection, work: Work, seconds: float | None) -> None:
    """A worker's life; it ends when nobody holds the pipe's other end any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of the terminal's processes; the driver decides
    last = now()

    def beat() -> None:
        nonlocal last
        if now() - last > BEAT:
            last = now()
            pipe.send(("beat", None))

    try:
        with work.open() as do:
            pipe.send(("ready", None))
            while (items := _next(pipe)) is not None:
                pipe.send(("done", watched(do, items, seconds, beat)))
    except BrokenPipeError:
        return  # the driver has died, in the middle of a task whose results are where they belong
    except BaseException as error:
        with suppress(OSError):
            pipe.send(("raised", described(error)))


def _next(pipe: Connection) -> Sequence[Any] | None:
    try:
        return pipe.recv()
    except EOFError:
        return None
