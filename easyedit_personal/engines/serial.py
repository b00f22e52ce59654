"""Everything in this process, one task after another: the default, and what the other engines are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from ..errors import ConfigError
from .base import Limits, Outcome, Work, described, now, raised, torch_threads


class SerialEngine:
    """No workers, no retries: what kills the process ends the run, and starting it again goes on.

    Raises:
        ConfigError: a time limit or several workers were asked for, which a single process cannot give.
    """

    name = "serial"
    workers = 1

    def __init__(self, limits: Limits, address: str | None = None) -> None:
        if limits.seconds is not None or (limits.workers or 1) > 1:
            raise ConfigError(
                "The serial engine has one worker, and cannot end what hangs.",
                got=f"{limits.workers or 1} workers, a time limit of {limits.seconds} s",
                remedy="use --engine processes",
            )
        self._limits = limits

    def run(self, work: Work, batches: Iterable[Sequence[Any]]) -> Iterator[Outcome]:
        """See ``Engine.run``; outcomes come in order."""
        source = iter(batches)
        first = next(source, None)
        if first is None:
            return  # nothing to do: no model is loaded for it
        with torch_threads(self._limits.threads), ExitStack() as stack:
            do = _explained(lambda: stack.enter_context(work.open()))
            batch: Sequence[Any] | None = first
            while batch is not None:
                started, items = now(), tuple(batch)
                reports = _explained(lambda items=items: tuple(do(items)))
                yield Outcome(items, reports, seconds=now() - started)
                batch = next(source, None)


def _explained(call: Any) -> Any:
    """The call's value; errors as the other engines raise them."""
    try:
        return call()
    except Exception as error:
        raise raised(*described(error)) from error
