"""The transcript of two users and one model is what its command writes, and says what it claims."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_model import FOLDER, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "two_users.py"
TRANSCRIPT = ROOT / "benchmarks" / "results" / "two-users.txt"


def check(text: str) -> None:
    """Every typed line is there, in order, and every claim held."""
    typed = re.search(r'CHAT = """\\\n(.*?)"""', SCRIPT.read_text(encoding="utf-8"), re.DOTALL)
    assert typed
    prompts = [match[1] for match in re.finditer(r"^(?:\w+>|\?) (.*)$", text, re.MULTILINE)]
    assert prompts == typed[1].splitlines()
    claims = re.findall(r"^(ok|NOT SO): ", text, re.MULTILINE)
    assert claims == ["ok"] * 4 and "\x1b" not in text


def test_the_committed_transcript_is_of_this_script():
    check(TRANSCRIPT.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_command_writes_it(tmp_path):
    command = [sys.executable, str(SCRIPT), "--model", str(FOLDER), "--hparams", str(SETTINGS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    check(done.stdout)
    assert not list(tmp_path.iterdir())
