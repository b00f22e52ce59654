"""How long tests wait for a thread, a process or a server: a limit for what hangs, never for what is merely slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 300.0  # seconds; ten times what the slowest wait has taken with six busy processes on two cores


def wait_until(condition: Callable[[], Any], what: Callable[[], str] | str) -> None:
    """Look again and again until something is so.

    Args:
        condition: called until it is true; what it asserts may end the waiting earlier.
        what: said when it takes too long.

    Raises:
        AssertionError: it took longer than ``PATIENCE``.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what if isinstance(what, str) else what()
        time.sleep(0.02)
