"""``kill -9`` in the middle of a run, in earnest: nothing is lost, nobody is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from easyedit_personal.evaluate import Plan, evaluate
from tests.evaluate.people import people
from tests.evaluate.test_run import Counting

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, time
from contextlib import contextmanager
from easyedit_personal.baselines.base import Session
from easyedit_personal.evaluate import Plan, evaluate
from tests.evaluate.people import people
from tests.tiny import tiny_model, tiny_tokenizer

class Slow:
    name, edits = "counting", True
    def prepare(self, items, seed): pass
    @contextmanager
    def personalize(self, model, tokenizer, preferences, cluster_size):
        time.sleep(0.4)
        yield Session(model, nbytes=7)

plan = Plan(["direct", "undo"], max_new_tokens=8)
evaluate(tiny_model("llama"), tiny_tokenizer(), people(), [Slow()], plan=plan, out=sys.argv[1])
"""


def test_killed_and_started_again(llama, tokenizer, tmp_path):
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, cwd=root)
    lines = tmp_path / "answers" / "counting.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.is_file() and len(lines.read_text().splitlines()) >= 2) and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(lines.read_text().splitlines())
    assert 2 <= done < 4
    second = Counting()
    plan = Plan(["direct", "undo"], max_new_tokens=8)
    result = evaluate(llama, tokenizer, people(), [second], plan=plan, out=tmp_path)
    whole = evaluate(llama, tokenizer, people(), [Counting()], plan=plan)
    assert second.seen == [item.id for item in people()][done:]
    assert result["methods"]["counting"]["metrics"] == whole["methods"]["counting"]["metrics"]
