"""Stores to test: SQLite in a temporary folder, and PostgreSQL on a server that the tests start themselves."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from easyedit_personal.store import EditStore
from tests.store.samples import edit

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of our own that listens on a socket in a temporary folder; its URL lacks the database."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra `postgres`)")
    binaries = [*glob.glob("/usr/lib/postgresql/*/bin"), os.path.dirname(shutil.which("initdb") or "")]
    folder = next((f for f in binaries if f and os.path.exists(f"{f}/initdb")), None)
    if folder is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    who = _unprivileged()
    root = tempfile.mkdtemp(prefix="pg-")
    shutil.chown(root, **({"user": who["user"], "group": who["group"]} if who else {"user": os.getuid()}))
    try:
        options: dict[str, Any] = {**who, "cwd": root, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        init = [f"{folder}/initdb", "-D", f"{root}/data", "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run([*init, "--no-sync"], check=True, **options)
        start = [f"{folder}/pg_ctl", "-D", f"{root}/data", "-w", "-l", f"{root}/log"]
        subprocess.run([*start, "-o", f"-k {root} -h ''", "start"], check=True, **options)
        try:
            yield f"postgresql://tester@/{{}}?host={root}"
        finally:
            subprocess.run([f"{folder}/pg_ctl", "-D", f"{root}/data", "-m", "immediate", "stop"], **options)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _unprivileged() -> dict[str, Any]:
    """The server refuses to run as root: whom to run it as instead."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    return pytest.skip("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database, of either kind in turn."""
    if request.param == "sqlite":
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
