"""What docs/contributing.md promises of the code: small pieces, and tests that check something."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 60  # lines of a function, its signature and docstring included
TYPICAL = 130  # lines that half of the package's files stay below


def functions(folder: str) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of every file, with a name that finds it again."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def called(node: ast.AST) -> set[str]:
    """Names of the functions and methods that are called somewhere below."""
    calls = [one.func for one in ast.walk(node) if isinstance(one, ast.Call)]
    return {one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in calls}


def checks(node: ast.AST) -> bool:
    """Whether an assertion, pytest's or a library's, is written in a function itself."""
    asserts = any(isinstance(one, ast.Assert) for one in ast.walk(node))
    return asserts or any(name in ("raises", "expect") or name.startswith("assert_") for name in called(node))


def test_functions_and_files_are_short():
    lengths = sorted(((node.end_lineno - node.lineno + 1, name) for name, node in functions("easyedit_personal")))
    files = [len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "easyedit_personal").rglob("*.py")]
    print(f"median file: {median(files):.0f} lines of {len(files)} files; the longest functions:")
    print("\n".join(f"{lines:4} {name}" for lines, name in reversed(lengths[-5:])))
    assert lengths[-1][0] <= LONGEST and median(files) < TYPICAL


def test_every_test_checks_something():
    """An assertion of its own, or one in a helper that it calls."""
    found = functions("tests")
    helpers = {node.name for _, node in found if checks(node) and not node.name.startswith("test_")}
    idle = [
        name
        for name, node in found
        if node.name.startswith("test_") and not checks(node) and not called(node) & helpers
    ]
    assert not idle, "\n".join(idle)
