"""The recording of two users of the service is of the commands that the example runs, and these exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from tests.house.test_documents import _fault

ROOT = Path(__file__).resolve().parents[2]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")  # as for a script that is started
    COMMANDS = runpy.run_path(str(ROOT / "examples" / "serving.py"))["COMMANDS"].strip().split("\n\n")
RECORDING = (ROOT / "docs" / "serving-recording.txt").read_text(encoding="utf-8")
JOB = {"$ann_job": "$URL/v1/jobs/1", "$ben_job": "$URL/v1/jobs/3"}


def requests():
    """(method, path) of every request to the service."""
    for command in COMMANDS:
        for name, address in JOB.items():
            command = re.sub(rf"{re.escape(name)}\b(?!=)", lambda _, address=address: address, command)
        for one in re.split(r"\||\$\(|;", command):
            found = re.search(r"^(?:ask\(\) \{ \$1|\s*(?:ann|ben)) .*?\$URL(/[^\s?\"]*)", one, re.DOTALL)
            if found:
                method = re.search(r"-X (\w+)", one)
                yield method[1] if method else "POST" if "--json" in one else "GET", found[1]


def test_the_recording_is_of_the_example():
    where = 0
    for command in COMMANDS:
        shown = command if command.startswith("#") else f"$ {command}"
        where = RECORDING.find(f"\n{shown}\n", where)
        assert where >= 0, f"not recorded, or not in this order: {command}"
    assert max(map(len, RECORDING.splitlines())) <= 80 and not re.search(r"/(tmp|home|root|work)/", RECORDING)


def test_every_request_of_it_has_a_route():
    from easyedit_personal.service import chat, jobs, preferences, users

    service = SimpleNamespace(settings=None)
    routes = [route for room in (chat, preferences, users, jobs) for route in room.router(service).routes]
    asked = {*requests()}
    assert len(asked) >= 8
    for method, path in asked:
        assert any(method in route.methods and route.path_regex.fullmatch(path) for route in routes), (method, path)


def test_the_server_is_started_by_a_command_that_exists():
    command = re.search(r"^\$ (easyedit-personal serve .*?) &$", RECORDING, re.MULTILINE | re.DOTALL)
    assert command and _fault(command[1].replace("\\\n", " ").split()) is None
