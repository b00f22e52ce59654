"""The package's logger and its one progress bar, so that both can be silenced in one place.

Nothing is configured on import: the logger has a NullHandler, the bar appears only on a terminal. Whoever is no
terminal and wants to know how far a task is uses ``metered``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

log = logging.getLogger("easyedit_personal")
log.addHandler(logging.NullHandler())

_silenced = False
TASK_SECONDS = 600.0  # what the pace of ``progress_within`` is taken from


def silence(on: bool = True) -> None:
    """Turn all progress bars off (or on again) for this process."""
    global _silenced
    _silenced = on


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` with a bar that shows rate and time left.

    No bar is drawn when the output is not a terminal, after ``silence()``, or when the environment variable
    ``EASYEDIT_PERSONAL_QUIET`` is set; the items are the same either way.
    """
    console = _terminal()
    items = counted(items, total)
    if console is None:
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, description=description, total=total)


@contextmanager
def progress_within(description: str, place: int, total: int) -> Iterator[None]:
    """A bar for one of ``total`` tasks that take minutes; drawn where ``progress`` is, gone when the body ends.

    It moves by what the loops of the body tell: see ``Meter``, whose share is a guess, and so is the time left.

    Args:
        description: what is done.
        place: how many of the tasks are done already.
        total: of them.
    """
    console = _terminal()
    if console is None:
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, speed_estimate_period=TASK_SECONDS) as bar:
        task = bar.add_task(description, total=total, completed=place)
        with metered(Meter(lambda share: bar.update(task, completed=place + share))):
            yield


class Meter:
    """The share of a task that is done, guessed from its loops: each is taken for a third of what was left before it.

    Args:
        tell: is given the share, from 0 to 1 and never falling, at every step of a loop; it may raise to end the task.
    """

    LOOP = 1 / 3

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell, self._share = tell, 0.0

    def loop(self, total: int) -> Callable[[int], None]:
        """A loop of so many steps begins; returns what wants to be told how many are done."""
        start, size = self._share, (1 - self._share) * self.LOOP

        def at(step: int) -> None:
            self._share = max(self._share, start + size * min(step / max(total, 1), 1.0))
            self._tell(self._share)

        return at


_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered(meter: Meter) -> Iterator[None]:
    """Have the loops of the body, in this thread, tell ``meter`` how far they are."""
    before = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(before)


def counted(items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` and tell the meter, if there is one; nothing is drawn."""
    meter = _meter.get()
    total = len(items) if total is None and isinstance(items, Sized) else total
    if meter is None or total is None:
        yield from items
        return
    at, step = meter.loop(total), 0
    for step, item in enumerate(items, 1):
        at(step - 1)
        yield item
    at(step)


@contextmanager
def working(description: str) -> Iterator[None]:
    """Show that something takes its time and cannot say how much; drawn where ``progress`` is."""
    console = _terminal()
    if console is None:
        yield
        return
    with console.status(description):
        yield


@contextmanager
def growing(folder: Path, total: int, description: str) -> Iterator[None]:
    """Show how many of ``total`` bytes are in ``folder`` while the body, or a process that it waits for, fills it.

    Downloads by other programs have no common way to report; the size of what they write is one. Drawn where
    ``progress`` is.
    """
    console = _terminal()
    if console is None:
        yield
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    done = threading.Event()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)

        def watch() -> None:
            while not done.wait(0.2):
                bar.update(task, completed=min(folder_size(folder), total))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def folder_size(folder: Path) -> int:
    """Bytes of all files in and below a folder; those that vanish while we look do not count."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return size


def _terminal() -> Console | None:
    """Where bars are drawn; None where they are not wanted."""
    from rich.console import Console

    console = Console(stderr=True)
    quiet = _silenced or os.environ.get("EASYEDIT_PERSONAL_QUIET") or not console.is_terminal
    return None if quiet else console
