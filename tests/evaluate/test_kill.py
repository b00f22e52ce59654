"""``kill -9`` in the middle of a run, in earnest: nothing is lost, nobody is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from easyedit_personal.evaluate import Plan, evaluate
from tests.evaluate.people import people
from tests.evaluate.test_run import Counting

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from contextlib import contextmanager
from pathlib import Path
from easyedit_personal.baselines.base import Session
from easyedit_personal.evaluate import Plan, evaluate
from tests.evaluate.people import people
from tests.tiny import tiny_model, tiny_tokenizer

class Slow:
    name, edits = "counting", True
    def prepare(self, items, seed): pass
    @contextmanager
    def personalize(self, model, tokenizer, preferences, cluster_size):
        if len(done()) == 2:  # somewhere in the third user: as long as it takes to be killed
            print("here", flush=True)
            sys.stdin.read()
        yield Session(model, nbytes=7)

def done():
    lines = Path(sys.argv[1], "answers", "counting.jsonl")
    return lines.read_text().splitlines() if lines.exists() else []

plan = Plan(["direct", "undo"], max_new_tokens=8)
evaluate(tiny_model("llama"), tiny_tokenizer(), people(), [Slow()], plan=plan, out=sys.argv[1])
"""


def test_killed_and_started_again(llama, tokenizer, tmp_path):
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, cwd=root, **pipes) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len((tmp_path / "answers" / "counting.jsonl").read_text().splitlines()) == 2
    second = Counting()
    plan = Plan(["direct", "undo"], max_new_tokens=8)
    result = evaluate(llama, tokenizer, people(), [second], plan=plan, out=tmp_path)
    whole = evaluate(llama, tokenizer, people(), [Counting()], plan=plan)
    assert second.seen == [item.id for item in people()][2:]
    assert result["methods"]["counting"]["metrics"] == whole["methods"]["counting"]["metrics"]
