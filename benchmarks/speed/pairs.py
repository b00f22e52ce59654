"""Two ways to do the same, turn and turn about: medians, and ratios taken within each pair.

On a machine that others use, the two runs of a pair see about the same load; ratios of medians do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .machine import Cost, cost, finish


@dataclass(frozen=True)
class Side:
    """One way to do the work.

    Attributes:
        run: does it once, returns the result.
        units: how much of the work one run does (requests, users); seconds are per unit.
        counted: the same for operations, where a part of the work is run and ``stretch`` gives seconds for all of it.
        facts: what the reader should know, for the JSON.
        stretch: turns wall and CPU seconds of the last run into those of the whole work, where only a part was run.
    """

    run: Callable[[], Any]
    units: float = 1
    counted: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    stretch: Callable[[float, float], tuple[float, float]] = lambda wall, cpu: (wall, cpu)


@dataclass(frozen=True)
class Outcome:
    """A measured pair of sides; ``ours`` and ``theirs`` are what is reported of each."""

    ratio: dict[str, Any]
    ours: dict[str, Any]
    theirs: dict[str, Any]
    ours_result: Any
    theirs_result: Any


def compare(ours: Side, theirs: Side, pairs: int, model: Any) -> Outcome:
    """Warm both up (counting operations and memory), then time them in alternating order.

    Args:
        pairs: how many times each side is timed.
        model: whose device's memory counts.
    """
    costs = [cost(side.run, model) for side in (ours, theirs)]
    wall: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for number in range(pairs):
        for which in (0, 1) if number % 2 else (1, 0):
            side = (ours, theirs)[which]
            started, used = time.perf_counter(), time.process_time()
            side.run()
            finish(model)
            seconds = side.stretch(time.perf_counter() - started, time.process_time() - used)
            wall[which].append(seconds[0] / side.units)
            cpu[which].append(seconds[1] / side.units)
    ratio = spread([b / a for a, b in zip(*wall)])
    ratio["by_cpu_seconds"] = spread([b / a for a, b in zip(*cpu)])
    mine, others = (_report(side, *values) for side, values in zip((ours, theirs), zip(costs, wall, cpu)))
    return Outcome(ratio, mine, others, costs[0].result, costs[1].result)


def _report(side: Side, counted: Cost, wall: Sequence[float], cpu: Sequence[float]) -> dict[str, Any]:
    seconds, gflop = statistics.median(wall), counted.gflop / (side.counted or side.units)
    return {
        "seconds": round(seconds, 6),
        "seconds_min": round(min(wall), 6),
        "seconds_max": round(max(wall), 6),
        "cpu_seconds": round(statistics.median(cpu), 6),
        "gflop": round(gflop, 3),
        "gflop_per_s": round(gflop / statistics.median(cpu), 2),
        "peak_mib": round(counted.peak_mib, 1),
        **side.facts,
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes, and of how many."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
        "n": len(values),
    }
