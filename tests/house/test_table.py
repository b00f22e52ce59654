"""What is promised in writing: tests and modules that are named exist, and what tests install is pinned."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from benchmarks.mutants import TARGETS

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


def test_mutants_are_made_of_modules_and_tests_that_exist():
    for modules in TARGETS.values():
        for module, tests in modules.items():
            paths = [ROOT / "easyedit_personal" / module, *(ROOT / "tests" / test for test in tests)]
            assert len(paths) > 1 and [str(path) for path in paths if not path.is_file()] == []


def test_what_is_installed_for_tests_is_pinned():
    """Every requirement, and every extra that the tests use, has one exact version, one that pyproject.toml allows."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    ours, *others = extras["test"]  # the first line names extras of our own
    tested = [*others, *(one for extra in Requirement(ours).extras for one in extras[extra])]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    wanted = [Requirement(one) for one in [*project["dependencies"], *tested]]
    assert len(wanted) > 20
    for one in wanted:
        assert canonicalize_name(one.name) in pins, f"{one.name} is not pinned"
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), f"{one} is pinned outside of its range"
