"""Works to carry out: cheap, importable by workers, and able to misbehave on request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_personal.errors import DataError


@dataclass(frozen=True)
class Squares:
    """Squares numbers; notes each worker's opening in ``folder``, and misbehaves for the numbers that are named.

    Attributes:
        folder: where ``opened-*`` and ``tried-*`` files are left.
        killed, hangs, stopped: these numbers kill, hang or stop the worker, each time.
        once: only the first time.
        raises: this number raises an error of ours, which ends the run.
        breaks: opening raises, or kills.
        pause: seconds that each number takes.
        threads: also report how many torch uses.
    """

    folder: str
    killed: frozenset[int] = frozenset()
    hangs: frozenset[int] = frozenset()
    stopped: frozenset[int] = frozenset()
    once: bool = False
    raises: int | None = None
    breaks: str = ""
    pause: float = 0.0
    threads: bool = False

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[int]], Iterable[Any]]]:
        """The function that squares."""
        if self.breaks == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.breaks:
            raise DataError(self.breaks, remedy="mend it")
        (Path(self.folder) / f"opened-{os.getpid()}").touch()
        yield self._do
        (Path(self.folder) / f"closed-{os.getpid()}").touch()

    def _do(self, items: Sequence[int]) -> Iterator[tuple[int, int]]:
        for item in items:
            tried = Path(self.folder) / f"tried-{item}"
            first = not tried.exists()
            tried.touch()
            with tried.open("a") as file:
                file.write("x")
            if item == self.raises:
                raise DataError(f"number {item} is not liked", got=item)
            if first or not self.once:
                self._misbehave(item)
            time.sleep(self.pause)
            yield item, _torch_threads() if self.threads else item * item

    def _misbehave(self, item: int) -> None:
        if item in self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self.stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        if item in self.hangs:
            time.sleep(600)


def batches(count: int, size: int) -> list[tuple[int, ...]]:
    """0 to count in batches."""
    return [tuple(range(first, min(first + size, count))) for first in range(0, count, size)]


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()
