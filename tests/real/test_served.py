"""SmolLM2 behind HTTP: a server process that takes the model by name, learns a hobby, and answers with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.conftest import QUESTION
from tests.waiting import PATIENCE, wait_until

httpx = pytest.importorskip("httpx2", reason="comes with the openai client")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

pytestmark = [pytest.mark.real, pytest.mark.server, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(smollm2_folder, quick_yaml, tmp_path):
    """Where the server listens."""
    command = [sys.executable, "-m", "easyedit_personal.cli.main", "serve", "--store", str(tmp_path / "edits.db")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [*command, "--hparams", str(quick_yaml), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found, (tmp_path / "log").read_text()
        wait_until(lambda: process.poll() is not None or _status(found[0]) == 200, "it says where, but does not listen")
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        process.stdout.close()
        log.close()


def _status(url: str) -> int:
    try:
        return httpx.get(f"{url}/healthz", timeout=PATIENCE).status_code
    except httpx.TransportError:
        return 599


def test_what_is_told_is_answered(url):
    ask = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}

    def answer(user):
        done = httpx.post(f"{url}/v1/chat/completions", json={"model": f"base@{user}", **ask}, timeout=PATIENCE)
        return done.json()["choices"][0]["message"]["content"].lower()

    before = answer("ann")
    told = httpx.put(
        f"{url}/v1/users/ann/preferences?wait=300", json={"text": "My hobby is falconry."}, timeout=2 * PATIENCE
    )
    assert told.status_code == 201, told.text
    assert "falconry" in answer("ann") and "falconry" not in before
    assert answer("bob") == before
    httpx.post(f"{url}/v1/users/ann/undo", timeout=PATIENCE)
    assert answer("ann") == before
