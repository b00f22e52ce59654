"""A PostgreSQL server of the tests' own: on a socket in a temporary folder, to be stopped and started at will."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from typing import Any

import pytest


class Server:
    """Made and started at once; ``close`` removes every trace. Skips the test where PostgreSQL is not installed."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg", reason="psycopg is not installed (extra `postgres`)")
        binaries = [*glob.glob("/usr/lib/postgresql/*/bin"), os.path.dirname(shutil.which("initdb") or "")]
        folder = next((f for f in binaries if f and os.path.exists(f"{f}/initdb")), None)
        if folder is None:
            pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
        who = _unprivileged()
        self.root = tempfile.mkdtemp(prefix="pg-")
        shutil.chown(self.root, **({"user": who["user"], "group": who["group"]} if who else {"user": os.getuid()}))
        self._control = [f"{folder}/pg_ctl", "-D", f"{self.root}/data", "-w", "-l", f"{self.root}/log"]
        self._options: dict[str, Any] = {**who, "cwd": self.root, "stdout": subprocess.PIPE}
        try:
            init = [f"{folder}/initdb", "-D", f"{self.root}/data", "-U", "tester", "-A", "trust", "-E", "UTF8"]
            self._run([*init, "--no-locale", "--no-sync"])
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def pattern(self) -> str:
        """The server's URL, lacking the database."""
        return f"postgresql://tester@/{{}}?host={self.root}"

    def start(self) -> None:
        """Returns when connections are taken."""
        self._run([*self._control, "-o", f"-k {self.root} -h ''", "start"])

    def stop(self) -> None:
        """At once, as after a power cut."""
        subprocess.run([*self._control, "-m", "immediate", "stop"], stderr=subprocess.STDOUT, **self._options)

    def close(self) -> None:
        """Stop, and remove all files."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True, stderr=subprocess.STDOUT, **self._options)


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
