"""The recordings are of the commands that the examples run, and these exist."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from tests.house.documents import blocks
from tests.house.test_documents import _fault

ROOT = Path(__file__).resolve().parents[2]


def commands_of(example: str) -> list[str]:
    """The commands and comments that an example runs and prints."""
    sys.path.insert(0, str(ROOT / "examples"))  # as for a script there
    try:
        return runpy.run_path(str(ROOT / "examples" / example))["COMMANDS"].strip().split("\n\n")
    finally:
        sys.path.remove(str(ROOT / "examples"))


COMMANDS = commands_of("serving.py")
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


@pytest.mark.parametrize(
    ("example", "document"), [("serving.py", "serving-recording.txt"), ("own_model.py", "your-own-model.md")]
)
def test_a_recording_is_of_its_example(example, document):
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    recording = "\n".join(blocks(text, "console")) if document.endswith(".md") else text
    where = 0
    for command in commands_of(example):
        shown = command if command.startswith("#") else f"$ {command}"
        where = f"\n{recording}".find(f"\n{shown}\n", where)
        assert where >= 0, f"not recorded, or not in this order: {command}"
    assert max(map(len, recording.splitlines())) <= 80 and not re.search(r"/(tmp|home|root|work)/", recording)


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
