"""The example of two users and one model runs, and every claim it makes holds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_model import FOLDER, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "two_users.py"


def check(text: str) -> None:
    """Every typed line is there, in order, and every claim held."""
    typed = re.search(r'CHAT = """\\\n(.*?)"""', SCRIPT.read_text(encoding="utf-8"), re.DOTALL)
    assert typed
    prompts = [match[1] for match in re.finditer(r"^(?:\w+>|\?) (.*)$", text, re.MULTILINE)]
    assert prompts == typed[1].splitlines()
    claims = re.findall(r"^(ok|NOT SO): ", text, re.MULTILINE)
    assert claims == ["ok"] * 4 and "\x1b" not in text


@pytest.mark.slow
def test_two_users_get_their_own_answers(tmp_path):
    command = [sys.executable, str(SCRIPT), "--model", str(FOLDER), "--hparams", str(SETTINGS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    check(done.stdout)
    assert not list(tmp_path.iterdir())
