"""Stores to test: SQLite in a temporary folder, and PostgreSQL on a server that the tests start themselves."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from easyedit_personal.store import EditStore
from tests.postgres import Server
from tests.store.samples import edit

DATABASES = [
    *("sqlite", "sqlite, encrypted"),
    *(pytest.param(name, marks=pytest.mark.server) for name in ("postgresql", "postgresql, encrypted")),
]
KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of our own that listens on a socket in a temporary folder; its URL lacks the database."""
    server = Server()
    try:
        yield server.pattern
    finally:
        server.close()


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty database, of either kind in turn, in clear and with a key in the environment."""
    kind, _, encrypted = request.param.partition(", ")
    if encrypted:
        pytest.importorskip("cryptography", reason="cryptography is not installed (extra `encryption`)")
        monkeypatch.setenv("EASYEDIT_PERSONAL_STORE_KEY", KEY)
    if kind == "sqlite":
        yield str(tmp_path / "edits.db")
        return
    import psycopg

    pattern = request.getfixturevalue("postgres")
    name = f"t{abs(hash(request.node.nodeid))}"
    with psycopg.connect(pattern.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield pattern.format(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(url: str) -> Iterator[EditStore]:
    """An open, empty store of either kind."""
    with EditStore.open(url) as opened:
        yield opened


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """A closed SQLite store of three users with two edits each."""
    path = tmp_path / "edits.db"
    with EditStore.open(path) as opened:
        for user in ("ann", "ben", "cleo"):
            for number in (1, 2):
                opened.put(user, edit(f"{user}{number}"))
    return path
