"""The personalize command: what it says, what it keeps, how it ends."""

from __future__ import annotations

import json
import socket
import urllib.request

import pytest
from typer.testing import CliRunner

from easyedit_personal.bulk import bulk
from easyedit_personal.cli.main import app
from easyedit_personal.cli.personalize import _rate
from easyedit_personal.errors import PersonalizationError
from easyedit_personal.store import EditStore
from tests.engines.random_factors import RandomFactors, expected, write_users
from tests.store.samples import same
from tests.tiny_model import SETTINGS


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr(bulk, "LearnerFactory", lambda hparams: RandomFactors())


@pytest.fixture
def users(tmp_path):
    """Twelve, two of whom cannot be personalised."""
    return write_users(tmp_path / "users.jsonl", 12, {3: "raises", 8: "nan"})


def run(*words):
    """The command's result."""
    return CliRunner().invoke(app, ["personalize", "--hparams", str(SETTINGS), *map(str, words)])


@pytest.mark.parametrize(("engine", "options"), [("serial", ()), ("processes", ("--workers", 1))])
def test_who_fails_is_in_the_file_and_the_rest_in_the_store(users, tmp_path, engine, options):
    store = tmp_path / "edits.db"
    result = run("--users", users, "--store", store, "--engine", engine, *options, "--batch", 5)
    assert result.exit_code == 1, result.output
    assert "12 users" in result.output and "10 new, 0 were there, 2 failed" in result.output
    assert "Slowest: user" in result.output and f"({engine})" in result.output
    failures = [json.loads(line) for line in (tmp_path / "users.jsonl.failures.jsonl").read_text().splitlines()]
    assert {(line["line"], line["user"]) for line in failures} == {(4, "user 3"), (9, "user 8")}
    with EditStore.open(store) as opened:
        assert same(opened.deltas("user 5"), expected(5)) and len(list(opened.users())) == 10
    write_users(users, 12)  # what was wrong has been mended
    second = run("--users", users, "--store", store, "--failures", tmp_path / "f.jsonl")
    assert second.exit_code == 0 and "2 new, 10 were there, 0 failed" in second.output
    assert not (tmp_path / "f.jsonl").exists()


def test_a_dry_run_says_what_it_would_take_and_keeps_nothing(users, tmp_path):
    result = run("--users", users, "--store", tmp_path / "edits.db", "--dry-run", "--sample", 6)
    assert result.exit_code == 0, result.output
    assert "12 users; 6 tried, 1 of them failed" in result.output and "1,024 bytes of factors" in result.output
    assert not (tmp_path / "edits.db").exists() and list(tmp_path.iterdir()) == [users]


def test_bfloat16_takes_half(users, tmp_path):
    for dtype in ("float32", "bfloat16"):
        run("--users", users, "--store", tmp_path / dtype, "--dtype", dtype)
    sizes = []
    for dtype in ("float32", "bfloat16"):
        with EditStore.open(tmp_path / dtype) as store:
            sizes.append(store.history("user 1")[0].nbytes)
    assert sizes[0] - sizes[1] == 2 * 4 * (24 + 40)


def test_factors_may_lie_elsewhere(users, tmp_path):
    store, place = tmp_path / "edits.db", tmp_path / "factors"
    assert run("--users", users, "--store", store, "--factors", place).exit_code == 1
    assert len([path for path in place.rglob("*") if path.is_file()]) == 10
    with EditStore.open(store) as opened:
        assert same(opened.deltas("user 5"), expected(5)) and opened.verify() == []


def test_figures_for_prometheus(users, tmp_path):
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed (extra `metrics`)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run("--users", users, "--store", tmp_path / "edits.db", "--metrics-port", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert 'easyedit_personal_users_total{status="new"} 10.0' in text
    assert 'easyedit_personal_users_total{status="failed"} 2.0' in text
    assert "easyedit_personal_user_seconds_count 10.0" in text and "easyedit_personal_users_wanted 12.0" in text


def test_ctrl_c_is_no_failure(users, tmp_path, monkeypatch):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RandomFactors, "solve", interrupted)
    result = run("--users", users, "--store", tmp_path / "edits.db")
    assert result.exit_code == 130 and "goes on from here" in result.output


@pytest.mark.parametrize(
    ("per_second", "said"),
    [(1200, "1,200.0 users per second"), (0.5, "30.0 users per minute"), (1 / 360, "10.0 users per hour")],
)
def test_a_rate_is_said_in_a_unit_that_shows_it(per_second, said):
    assert _rate(per_second) == said


BAD = {
    "no file": (["--users", "nowhere.jsonl"], "cannot be read"),
    "no engine": (["--engine", "rai"], "Did you mean 'ray'"),
    "no settings": (["--hparams", "nowhere.yaml"], "There is no hyper-parameter file"),
    "no model": (["--model", "nowhere"], "not for the model 'nowhere'"),
    "no type": (["--dtype", "float8"], "float32 or bfloat16"),
    "workers": (["--engine", "processes", "--workers", "0"], "out of range"),
    "serial workers": (["--workers", "2"], "--engine processes"),
    "store": (["--store", "mysql://u@h/d"], "no store for this kind"),
    "folder": (["--store", "no/such/folder/edits.db"], "make the folder first"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_first(name, users, tmp_path):
    words, says = BAD[name]
    given = {"--users": users, "--store": tmp_path / "edits.db"}
    given |= dict(zip(words[::2], words[1::2]))
    result = run(*(word for pair in given.items() for word in pair))
    assert isinstance(result.exception, PersonalizationError) and says in str(result.exception)
