"""``easyedit-personal learn``: a process that learns what a server without learners was told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from easyedit_personal.store import EditStore
from tests import tiny_model

httpx = pytest.importorskip("httpx2", reason="comes with the openai client")
served = pytest.importorskip("tests.service.test_server", reason="the extras serve and llm are not installed")

pytestmark = pytest.mark.server


def test_told_here_learned_there(tmp_path):
    (tmp_path / "users.yaml").write_text(json.dumps({served.OPERATOR: "*"}))
    (tmp_path / "users.yaml").chmod(0o600)
    server = served.Server(tmp_path, "--learners", "0", "--max-user-jobs", "1")
    command = [sys.executable, "-m", "easyedit_personal.cli.main", "learn", "--store", str(tmp_path / "edits.db")]
    command += ["--model", str(tiny_model.FOLDER), "--hparams", str(tiny_model.SETTINGS)]
    with httpx.Client(base_url=server.url, headers=served.bearer(served.OPERATOR), timeout=400) as http:
        tell = lambda user: http.put(f"/v1/users/{user}/preferences", json={"text": "My hobby is chess."})
        told = [tell(user) for user in ("ann", "ben", "ann")]
        assert [one.status_code for one in told] == [202, 202, 429]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(served.ROOT), "HF_HUB_OFFLINE": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as learner:
            done = [http.get(one.headers["location"] + "?wait=300").json() for one in told[:2]]
            assert [one["status"] for one in done] == ["done", "done"]
            learner.send_signal(signal.SIGTERM)
            assert learner.wait(60) == 0 and "Ctrl-C" in learner.stdout.read()
        left = tell("ann")
        # Who follows a job that nobody learns does not keep the server from stopping.
        with http.stream("GET", left.headers["location"], headers={"Accept": "text/event-stream"}) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: job"
            server.process.send_signal(signal.SIGTERM)
            assert '"queued"' in "".join(lines)
    assert server.stop() == 0
    with EditStore.open(tmp_path / "edits.db") as store:
        assert len(store.history("ann")) == len(store.history("ben")) == 1 and store.jobs.counts() == {
            "queued": 1,
            "running": 0,
        }
