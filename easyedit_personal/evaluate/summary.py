"""Means with honest intervals: Wilson for shares, bootstrap for the rest, paired bootstrap for two methods.

Everything is seeded: the same answers give the same intervals on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from scipy.stats import bootstrap as resample

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` independent draws and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int) -> Interval:
    """Wilson's score interval of a share (Wilson 1927): sensible at 0 % and 100 %, where the normal one is not.

    Raises:
        ValueError: there are no draws, or more hits than draws.
    """
    found = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    share = hits / n
    return Interval(share, min(share, float(found.low)), max(share, float(found.high)), n)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean; values that are not finite make the mean so, and the interval void.

    Raises:
        ValueError: there are no values.
    """
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise ValueError("no values")
    mean = float(data.mean())
    if not np.isfinite(data).all() or data.size == 1:
        return Interval(mean, math.nan, math.nan, data.size)
    rng = np.random.default_rng(seed)
    found = resample((data,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng).confidence_interval
    return Interval(mean, min(float(found.low), mean), max(float(found.high), mean), data.size)


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
