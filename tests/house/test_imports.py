"""The house's one structural rule: imports point down only."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "easyedit_personal"
LAYERS = [
    {"errors", "types", "registry", "progress", "files", "pretrained"},
    {"hparams", "engines"},
    {"modeling", "data", "clustering"},
    {"kernels", "store", "evaluate", "baselines", "reference"},
    {"editing"},
    {"integrations", "cli", "service"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
NEVER_EACH_OTHER = {2}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a module imports, at its top or inside functions."""
    parts = ("easyedit_personal", *path.relative_to(PACKAGE).with_suffix("").parts)
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = parts[: -node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("easyedit_personal.")}
    return rooms & LEVEL.keys()


def test_imports_point_down_only():
    faults = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in LEVEL:
            assert room == "__init__", f"{path} stands in no room of the house: add it to LAYERS"
            continue
        for other in imported_rooms(path) - {room}:
            sideways = LEVEL[other] == LEVEL[room] and LEVEL[room] in NEVER_EACH_OTHER
            if LEVEL[other] > LEVEL[room] or sideways:
                faults.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert not faults, "\n".join(faults)


def test_only_the_integration_imports_easyeditor():
    users = [
        p for p in PACKAGE.rglob("*.py") if "import easyeditor" in p.read_text() or "from easyeditor" in p.read_text()
    ]
    assert all("integrations" in path.parts for path in users)


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
