"""Means with honest intervals: Wilson for shares, bootstrap for the rest, paired bootstrap for two methods.

Everything is seeded: the same answers give the same intervals on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` independent draws and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int) -> Interval:
    """Wilson's score interval of a share (Wilson 1927): sensible at 0 % and 100 %, where the normal one is not."""
    if n <= 0 or not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n}")
    share, z2 = hits / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), n)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean; values that are not finite make the mean so, and the interval void."""
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise ValueError("no values")
    mean = float(data.mean())
    if not np.isfinite(data).all() or data.size == 1:
        return Interval(mean, math.nan, math.nan, data.size)
    picks = np.random.default_rng(seed).integers(data.size, size=(RESAMPLES, data.size))
    low, high = np.quantile(data[picks].mean(1), [0.025, 0.975])
    return Interval(mean, min(float(low), mean), max(float(high), mean), data.size)


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Wilson where every value is 0 or 1, bootstrap otherwise."""
    if all(value in (0, 1) for value in values):
        return wilson(int(sum(values)), len(values))
    return bootstrap(values, seed)


def paired(first: Mapping[str, float], second: Mapping[str, float], seed: int = 0) -> Interval | None:
    """Mean of second minus first over the users that both have, bootstrapped over users; None without any."""
    users = sorted(first.keys() & second.keys())
    if not users:
        return None
    return bootstrap([second[user] - first[user] for user in users], seed)
