"""The one structural rule: imports point down only."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "easyedit_personal"
FLOORS = [
    {"errors", "types", "plugins", "registry", "progress", "files", "validation"},
    {"hparams", "engines", "data"},
    {"modeling"},
    {"generation", "clustering", "settings"},
    {"kernels", "statements"},
    {"editing", "serving", "store"},
    {"baselines", "evaluate"},
    {"learning", "bulk", "integrations"},
    {"service", "cli"},
]
LEVEL = {package: level for level, packages in enumerate(FLOORS) for package in packages}


def imported_packages(path: Path) -> set[str]:
    """Packages of ours that a module imports, at its top or inside functions."""
    parts = ("easyedit_personal", *path.relative_to(PACKAGE).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = parts[: -node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("easyedit_personal.")}
    return found & LEVEL.keys()


def imports_of_packages() -> dict[str, dict[str, Path]]:
    """By package, what it imports of the others, each with a module that does."""
    found: dict[str, dict[str, Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if package in LEVEL:
            others = imported_packages(path) - {package}
            found.setdefault(package, {}).update(dict.fromkeys(others, path.relative_to(PACKAGE)))
        else:
            assert package == "__init__", f"{path} stands on no floor: add it to FLOORS"
    return found


def test_imports_point_down_only():
    imports = imports_of_packages()
    for level, packages in enumerate(FLOORS):
        print(f"floor {level}: {' '.join(sorted(packages))}")
    faults = [
        f"{path} imports {other}, which is above"
        for package, others in imports.items()
        for other, path in others.items()
        if LEVEL[other] > LEVEL[package]
    ]
    assert not faults, "\n".join(faults)


def test_no_two_packages_import_each_other():
    imports = imports_of_packages()
    pairs = [f"{one} and {other}" for one in imports for other in imports[one] if one in imports.get(other, ())]
    assert not pairs, "\n".join(pairs)


def imports_host(path: Path) -> bool:
    """Whether a module imports EasyEdit, by a statement or by ``import_module("easyeditor...")``."""
    return bool(re.search(r"^\s*(?:import|from) easyeditor\b|import_module\(f?\"easyeditor\b", path.read_text(), re.M))


def test_only_the_integration_imports_easyeditor():
    users = {path.relative_to(PACKAGE).parts[:2] for path in PACKAGE.rglob("*.py") if imports_host(path)}
    assert users == {("integrations", "easyedit")}


def test_importing_the_package_is_quiet_and_light():
    import subprocess
    import sys

    code = (
        "import sys, random, logging; s = random.getstate(); h = list(logging.getLogger().handlers)\n"
        "import easyedit_personal\n"
        "assert random.getstate() == s and logging.getLogger().handlers == h\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'easyeditor') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]" and out.stderr == ""
