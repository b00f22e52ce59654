"""Random material through every door: it works, or ends in an error of ours.

Few cases and always the same ones here; ``python -m benchmarks.fuzz --cases 100000`` sends many through the same doors.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.robustness.doors import DOORS, outcome

SLOW_DOORS = ("phrases", "edit", "editor", "generate")  # they run a model
OPEN_DOORS = ("plain words", "cluster", "expand", "generate", "request", "records", "encode")  # some things get in


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name.replace(" ", "-"))
def test_whatever_comes_in_works_or_is_refused(door):
    met = set()

    @seed(8)
    @settings(
        max_examples=6 if door.name in SLOW_DOORS else 50,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(door.inputs)
    def enter(case: Any) -> None:
        met.add(outcome(door, case))

    enter()
    assert "works" in met or door.name not in OPEN_DOORS
    assert met - {"works"} or door.name in (*SLOW_DOORS, "plain words")
