"""The package's logger and its one progress bar, so that both can be silenced in one place.

Nothing is configured on import: the logger has a NullHandler, the bar appears only on a terminal.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger("easyedit_personal")
log.addHandler(logging.NullHandler())

_silenced = False


def silence(on: bool = True) -> None:
    """Turn all progress bars off (or on again) for this process."""
    global _silenced
    _silenced = on


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` with a bar that shows rate and time left.

    No bar is drawn when the output is not a terminal, after ``silence()``, or when the environment variable
    ``EASYEDIT_PERSONAL_QUIET`` is set; the items are the same either way.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if _silenced or os.environ.get("EASYEDIT_PERSONAL_QUIET") or not console.is_terminal:
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, description=description, total=total)
