"""Fixtures of the tests that need the genuine host."""

from __future__ import annotations

import pytest

from tests.hosts import host_or_skip


@pytest.fixture(scope="session")
def host():
    """EasyEdit, imported the way the package imports it; the test is skipped with the reason where there is none."""
    return host_or_skip()
