"""What is promised in writing: the table's tests exist, and what tests install is pinned."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?(?:::(\w+))?(?:\[[^`]*\])?`")


def missing(text: str) -> list[str]:
    """Tests that a text names and that do not exist."""
    faults = []
    for path, *names in NAMED.findall(text):
        file = ROOT / path
        tree = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        known = {node.name for node in ast.walk(tree) if isinstance(node, kinds)} if tree else set()
        if tree is None or not all(name in known for name in names if name):
            faults.append("::".join([path, *filter(None, names)]))
    return faults


def test_every_test_in_the_table_exists():
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and "`tests/" in line]
    assert len(rows) > 20 and missing(text) == []
    assert missing("`tests/house/test_table.py::test_nothing` `tests/gone.py`") == [
        "tests/house/test_table.py::test_nothing",
        "tests/gone.py",
    ]


def test_what_is_installed_for_tests_is_pinned(monkeypatch):
    """Every requirement, and every extra that the tests use, has one exact version, one that setup.py allows."""
    import setuptools
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    path = ROOT / "setup.py"
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__file__": str(path), "__name__": "setup"})
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    wanted = [Requirement(one) for one in [*given["install_requires"], *given["extras_require"]["test"]]]
    assert len(wanted) > 20
    for one in wanted:
        assert canonicalize_name(one.name) in pins, f"{one.name} is not pinned"
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), f"{one} is pinned outside of its range"
