"""Finding EasyEdit for the tests, and running code in a fresh interpreter.

The host is looked for in EASYEDIT_HOME, on the import path, and in a checkout next to this repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from easyedit_personal.errors import HostError
from easyedit_personal.integrations.easyedit.locate import VARIABLE, find_host

REPOSITORY = Path(__file__).resolve().parents[1]
NEXT_DOOR = (REPOSITORY / "EasyEdit", REPOSITORY.parent / "EasyEdit", REPOSITORY.parent / "shared" / "EasyEdit")


def host_or_skip() -> Any:
    """The imported host; skips the test with the reason when there is none."""
    if not os.environ.get(VARIABLE):
        there = [folder for folder in NEXT_DOOR if (folder / "easyeditor" / "__init__.py").is_file()]
        if there:
            os.environ[VARIABLE] = str(there[0])
    try:
        find_host()
    except HostError as error:
        pytest.skip(f"needs EasyEdit: {error.what} Set {VARIABLE} to a checkout of github.com/zjunlp/EasyEdit.")
    from easyedit_personal.integrations.easyedit import load_host

    return load_host()


def run_python(code: str, folder: Path, limit: float = 300, **variables: str) -> str:
    """What ``code`` prints in an interpreter of its own whose working folder is ``folder``; ``limit`` in seconds."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=limit
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
