"""Ray on this machine, in a home folder of its own: it writes a token there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def begun(start: Callable[[], Any], tries: int = 3) -> Any:
    """Start something of Ray's; on a machine with ten times as much to do as cores, its own 30 s are not enough."""
    for _ in range(tries - 1):
        try:
            return start()
        except Exception:
            sys.modules["ray"].shutdown()
    return start()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: Ray reads its token once per process."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def ray_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module ray, not connected to anything, also not afterwards."""
    ray = pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield ray
    ray.shutdown()
