"""From the command line to a server: what is refused before a model is loaded, and bodies that never come."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest
from starlette.requests import Request

from easyedit_personal.cli.main import main
from easyedit_personal.errors import MissingDependencyError
from easyedit_personal.service import require
from easyedit_personal.service.api_errors import ApiError
from easyedit_personal.service.limits import read_body
from tests.tiny_model import SETTINGS


@pytest.fixture
def serve(monkeypatch, tmp_path, capsys):
    """Runs the command until it refuses, and gives what it said; no model may be loaded for that."""
    monkeypatch.delenv("EASYEDIT_PERSONAL_TOKEN", raising=False)
    monkeypatch.setattr("easyedit_personal.service.run.load_model", lambda hparams: pytest.fail("a model was loaded"))

    def run(*options):
        arguments = ["easyedit-personal", "serve", "--store", str(tmp_path / "edits.db"), "--hparams", str(SETTINGS)]
        monkeypatch.setattr(sys, "argv", [*arguments, *options])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2 and not (tmp_path / "edits.db").exists()
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_a_public_address_without_a_token_is_refused(serve, host):
    said = serve("--host", host)
    assert "open to the whole network" in said and "--token-file" in said and "Traceback" not in said


def test_faulty_tokens_and_files_are_refused(serve, tmp_path):
    assert "16 characters" in serve("--token", "hunter2") and "hunter2" not in serve("--token", "hunter2")
    assert "missing.yaml" in serve("--users-file", str(tmp_path / "missing.yaml"))
    assert "no-token-here" in serve("--token-file", str(tmp_path / "no-token-here"))
    (tmp_path / "users.yaml").write_text("{}")
    assert "nobody could come in" in serve("--host", "0.0.0.0", "--users-file", str(tmp_path / "users.yaml"))


def test_an_address_that_is_taken_or_elsewhere_is_refused(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in serve("--port", str(taken.getsockname()[1]))
    assert "cannot listen" in serve("--host", "192.0.2.1", "--token", "a-long-enough-token")


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setattr("easyedit_personal.service.find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(MissingDependencyError, match=r"uvicorn.*\n.*easyedit-personal\[serve\]"):
        require()


def test_a_body_that_never_comes_is_not_waited_for():
    async def receive():
        await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    with pytest.raises(ApiError) as caught:
        asyncio.run(read_body(Request(scope, receive), 1000, 0.01))
    assert caught.value.status == 408 and caught.value.headers["Connection"] == "close"
