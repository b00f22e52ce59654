"""From the command line to a server: what is refused before a model is loaded, and bodies that never come."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main
from starlette.requests import Request

from easyedit_personal.cli.main import app, main
from easyedit_personal.errors import MissingDependencyError
from easyedit_personal.service import require
from easyedit_personal.service.api_errors import ApiError
from easyedit_personal.service.limits import read_body
from easyedit_personal.service.middleware import WRONG_TOKENS
from easyedit_personal.service.preferences import MAX_STATEMENTS, MAX_TEXT
from easyedit_personal.service.run import MAX_CONNECTIONS
from easyedit_personal.service.settings import Settings
from easyedit_personal.store.ids import USER_BYTES
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


def test_a_request_log_that_cannot_be_written_is_refused(serve, tmp_path):
    assert "cannot be written" in serve("--request-log", str(tmp_path / "missing" / "requests"))


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


def test_the_limits_in_the_documents_are_those_that_hold():
    text = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+)[^|]*\| (?:`(--[\w-]+)`)?", text, re.MULTILINE)
    settings = Settings()
    limits = {field.name for field in fields(settings)} - {"name", "window", "learners"}
    assert {name for name, *_ in rows} == limits
    options = {name: one for one in typer.main.get_command(app).commands["serve"].params for name in one.opts}
    for name, value, option in rows:
        assert float(value) == getattr(settings, name), name
        assert (option or None) == next((one for one in options if one == f"--{name.replace('_', '-')}"), None), name
        assert not option or options[option].default == getattr(settings, name), name
    for value in (MAX_CONNECTIONS, WRONG_TOKENS, MAX_TEXT, MAX_STATEMENTS, USER_BYTES):
        assert re.search(rf"\b{value:,}\b", text.partition("Also: ")[2].partition("\n\n")[0])
