"""One thread that writes the answers of everybody who is waiting, a token of each per forward pass.

Requests that come while nothing is written are collected for a few milliseconds; later ones join between two forward
passes and leave when they are done, so nobody waits for the longest answer. No other thread runs this model.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from ..progress import log
from ..serving.streaming import Stream, Streams
from .stops import Stops


class Full(Exception):
    """No more answers can wait."""


class Closed(Exception):
    """The service is being stopped."""


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ended.

    Attributes:
        reason: "stop" (by itself, or at a stop string) or "length".
        tokens: how many were written, without the one that ended it.
        error: what stopped the model, instead of an end.
    """

    reason: str
    tokens: int
    error: BaseException | None = None


Notify = Callable[[str, End | None], None]


@dataclass
class Job:
    """An answer that somebody waits for.

    Attributes:
        stream: what is written.
        notify: is given every piece of text, and with the last one the end; called in the model's thread.
        stops: cut the text.
    """

    stream: Stream
    notify: Notify
    stops: Stops = field(default_factory=Stops)
    since: float = field(default_factory=time.monotonic)


class Gauge(Protocol):
    """What wants to be told how the batcher is doing."""

    def wrote(self, rows: int, seconds: float) -> None:
        """A forward pass of all answers is over."""
        ...

    def first(self, seconds: float) -> None:
        """An answer's first token is there, so long after it was asked for."""
        ...


class Batcher:
    """Writes answers until it is closed.

    Args:
        model: the base model, for this thread alone.
        tokenizer: its tokenizer, likewise.
        max_rows: answers that are written together.
        max_waiting: answers that wait for that.
        window: seconds in which the first ones are collected.
        gauge: see ``Gauge``.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        max_rows: int,
        max_waiting: int,
        window: float,
        gauge: Gauge | None = None,
    ) -> None:
        self.max_rows, self.max_waiting, self.window = max_rows, max_waiting, window
        self._streams, self._gauge = Streams(model, tokenizer), gauge
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="easyedit-personal-model", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Have an answer written.

        Raises:
            Full: too many are waiting.
            Closed: nothing more is taken.
        """
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise Closed
            if len(self._waiting) >= self.max_waiting:
                raise Full
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this answer any more: its place is free from the next forward pass on."""
        with self._changed:
            job.stream.done = True
            if job in self._waiting:
                self._waiting.remove(job)

    @property
    def waiting(self) -> int:
        """Answers that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._running)

    @property
    def alive(self) -> bool:
        """Whether answers are taken."""
        return self._thread.is_alive() and not self._closing

    def close(self, seconds: float | None = None) -> bool:
        """Take nothing more, finish what was taken, and say whether that worked within the time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while self._collect():
            began = time.monotonic()
            try:
                self._streams.step()
            except Exception as error:  # every stream of this moment carries it; the next ones may do better
                log.error("the model failed with %d answers on their way: %r", len(self._running), error)
            if self._gauge is not None:
                self._gauge.wrote(len(self._running), time.monotonic() - began)
            self._running = [job for job in self._running if not self._handed_out(job)]

    def _collect(self) -> bool:
        """SetRows who is waiting; with nobody to write for, wait for somebody. False when it is all over."""
        with self._changed:
            self._running = [job for job in self._running if not job.stream.done]
            if not self._running:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return False
                self._changed.wait_for(lambda: len(self._waiting) >= self.max_rows or self._closing, self.window)
            while self._waiting and len(self._running) < self.max_rows:
                job = self._waiting.popleft()
                self._streams.add(job.stream, nullcontext)
                self._running.append(job)
            return True

    def _handed_out(self, job: Job) -> bool:
        """Give an answer's new text to whoever waits for it; whether it was the last."""
        stream, text = job.stream, ""
        if job.since and (stream.pieces or stream.done):
            if self._gauge is not None:
                self._gauge.first(time.monotonic() - job.since)
            job.since = 0.0
        while stream.pieces:
            text += job.stops.feed(stream.pieces.popleft())
        stream.done = stream.done or job.stops.hit
        end = _end(job) if stream.done else None
        text += job.stops.rest() if end else ""
        if text or end:
            try:
                job.notify(text, end)
            except Exception as error:  # its listener is gone, with its event loop perhaps
                log.debug("nobody heard an answer: %r", error)
                stream.done = True
        return stream.done


def _end(job: Job) -> End:
    stream = job.stream
    cut = len(stream.tokens) >= stream.limit and not job.stops.hit
    return End("length" if cut else "stop", len(stream.tokens), stream.error)
