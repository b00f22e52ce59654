"""Looking into a run of the host's: how often the model ran, and what some of its functions took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import nn


class Passes:
    """Counts a model's forward passes, to tell whether the host stopped before its last step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def of(self, run: Any) -> int:
        """How many there are in one run."""
        seen: list[int] = []
        handle = self.model.register_forward_hook(lambda *_: seen.append(1))
        try:
            run()
        finally:
            handle.remove()
        return len(seen)


class Stopwatch:
    """Times the calls of some functions of a module, and tells what a run with ``factor`` times the work would take.

    Args:
        names: functions whose work grows with the requests; what else a run does counts as it is.
    """

    def __init__(self, module: Any, names: Sequence[str], factor: float) -> None:
        self.module, self.names, self.factor = module, names, factor
        self.spent = (0.0, 0.0)

    def around(self, run: Any) -> Any:
        """``run`` with the functions timed."""

        def timed() -> Any:
            self.spent = (0.0, 0.0)
            real = {name: getattr(self.module, name) for name in self.names}
            try:
                for name, function in real.items():
                    setattr(self.module, name, self._timing(function))
                return run()
            finally:
                for name, function in real.items():
                    setattr(self.module, name, function)

        return timed

    def _timing(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent = (
                    self.spent[0] + time.perf_counter() - wall,
                    self.spent[1] + time.process_time() - cpu,
                )

        return call

    def stretch(self, wall: float, cpu: float) -> tuple[float, float]:
        """Seconds of a run with ``factor`` times as many calls."""
        more = self.factor - 1
        return wall + more * self.spent[0], cpu + more * self.spent[1]
