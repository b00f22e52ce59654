"""Comparing ways to do the same work on a busy machine: all take turns, and ratios are taken within a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Way = Callable[[], int]  # runs once, returns how much was done


def measure(ways: Mapping[str, Way], rounds: int, against: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Throughput of every way, and its ratio to that of another.

    Args:
        ways: by name; each runs once before anything counts.
        rounds: in every one all ways run once, another one first each time.
        against: whose throughput a way is compared with.

    Returns:
        By way: work per second of CPU time, median, quartiles and extremes of the ratio, and the ratio by wall time.
    """
    for run in ways.values():
        run()
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    walls: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            wall, start = time.perf_counter(), time.process_time()
            done = ways[name]()
            speeds[name].append(done / (time.process_time() - start))
            walls[name].append(done / (time.perf_counter() - wall))
    return {
        name: {
            "against": against[name],
            "per_cpu_second": round(statistics.median(speeds[name]), 1),
            **spread(ratios(speeds[name], speeds[against[name]])),
            "wall_ratio": round(statistics.median(ratios(walls[name], walls[against[name]])), 3),
        }
        for name in ways
    }


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(mine, theirs)]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and extremes."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "range": [round(min(values), 3), round(max(values), 3)],
    }
