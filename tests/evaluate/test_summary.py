"""Intervals that are worth their name: known values, coverage, pairing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyedit_personal.evaluate.summary import bootstrap, mean_interval, paired, wilson


def test_wilson_has_the_textbook_values():
    interval = wilson(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 20).low == 0 and wilson(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert wilson(20, 20).high == 1 and wilson(20, 20).low == pytest.approx(0.8389, abs=1e-4)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_share(case):
    interval = wilson(*case)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_wilson_refuses_nonsense():
    for hits, n in ((1, 0), (3, 2), (-1, 4)):
        with pytest.raises(ValueError):
            wilson(hits, n)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(100):
        interval = bootstrap(rng.beta(2, 3, 60).tolist(), seed)
        covered += interval.low <= 0.4 <= interval.high
    assert 88 <= covered <= 100


def test_bootstrap_is_seeded_and_honest_about_broken_values():
    values = np.random.default_rng(0).random(30).tolist()
    assert bootstrap(values, 3) == bootstrap(values, 3) != bootstrap(values, 4)
    broken = bootstrap([1.0, math.inf])
    assert broken.mean == math.inf and math.isnan(broken.low)
    assert math.isnan(bootstrap([0.3]).low)
    with pytest.raises(ValueError):
        bootstrap([])


def test_shares_get_wilson_and_means_get_the_bootstrap():
    assert mean_interval([1, 0, 1, 1]) == wilson(3, 4)
    assert mean_interval([0.5, 1.0, 0.0], 2) == bootstrap([0.5, 1.0, 0.0], 2)


def test_pairing_is_sharper_than_two_intervals_side_by_side():
    rng = np.random.default_rng(0)
    base = {f"u{i}": float(value) for i, value in enumerate(rng.random(80))}
    better = {user: value + 0.05 for user, value in base.items()} | {"stranger": 0.0}
    interval = paired(base, better)
    assert interval.n == 80 and interval.low == pytest.approx(0.05) and interval.high == pytest.approx(0.05)
    assert bootstrap(list(base.values())).high > bootstrap([v + 0.05 for v in base.values()]).low
    assert paired({"a": 1.0}, {"b": 1.0}) is None
