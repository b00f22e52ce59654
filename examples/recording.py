"""What the scripts beside it share that print a recording: commands in one shell, each printed before it runs.

Long lines are folded, this machine's folder and Python are left out, and nothing else changes.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 80
COMMAND = '#!/bin/sh\nexec "$PYTHON" -m easyedit_personal.cli.main "$@"\n'  # this checkout's, whatever is installed


def environment(**more: str) -> dict[str, str]:
    """This process's variables, and this checkout first on Python's path."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "COLUMNS": str(COLUMNS), **more}


def script(commands: str) -> str:
    """The commands for one shell; they and comments are paragraphs."""
    lines = []
    for command in commands.strip().split("\n\n"):
        if command.startswith("#"):
            lines.append(f"printf '\\n%s\\n' {shlex.quote(command)}")
        else:
            lines += [f"printf '$ %s\\n' {shlex.quote(command)}", command]
    return "\n".join(lines)


def show(text: str) -> None:
    """Print a line or more, folded; this machine's folder is left out."""
    for line in text.rstrip("\n").split("\n"):
        line = line.replace(f"{os.getcwd()}/", "")
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        folded = textwrap.wrap(line, COLUMNS, subsequent_indent=indent, break_on_hyphens=False) or [""]
        print("\n".join(folded), flush=True)


def record(commands: str, **variables: str) -> None:
    """Run the commands in bash and print them with what they write, errors among it."""
    with tempfile.TemporaryDirectory() as folder:
        command = Path(folder, "easyedit-personal")
        command.write_text(COMMAND)
        command.chmod(0o755)
        shell = ["bash", "-c", f"exec 2>&1\n{script(commands)}"]
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        with subprocess.Popen(
            shell, stdout=subprocess.PIPE, text=True, env=environment(PATH=path, **variables)
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                show(line)
