"""``easyedit-personal store``: every command, on a store that has seen some life."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from easyedit_personal.cli.main import app
from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore
from tests.store.samples import edit, natural, preference

COMMANDS = (
    *("ls", "show", "undo", "forget", "export-lora", "export-all", "verify", "stats", "compact", "backup", "vacuum"),
    "rotate-key",
)


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """Ann has three edits, the last undone; Ben has one."""
    monkeypatch.setenv("COLUMNS", "200")
    with EditStore.open(tmp_path / "edits.db") as store:
        for name in ("falconry", "tea", "jazz"):
            store.put("ann", edit(name), preference=preference(name), kernel="rome", health={"norm": 0.25})
        store.undo("ann")
        store.put("ben [bold]\x1b[31m", edit("chess"), preference=preference("chess"))
    return tmp_path / "edits.db"


def run(path: Path | str, *arguments: str, fails: int = 0) -> str:
    """One command's output."""
    result = CliRunner().invoke(app, ["store", *arguments, "--store", str(path)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == fails, result.output
    return result.output


def test_help_names_every_command_and_is_quick():
    watched = "[name for name in ('torch', 'sqlalchemy') if name in sys.modules]"
    code = f"import sys\nfrom easyedit_personal.cli.main import app\nprint({watched})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    shown = CliRunner().invoke(app, ["store", "--help"]).output
    assert all(command in shown for command in COMMANDS)


def test_ls_and_show(path):
    assert sorted(run(path, "ls").splitlines()) == ["'ben [bold]\\x1b[31m'", "ann"]
    assert len(run(path, "ls", "--limit", "1").splitlines()) == 1
    assert {json.loads(line) for line in run(path, "ls", "--json").splitlines()} == {"ann", "ben [bold]\x1b[31m"}
    shown = run(path, "show", "--user", "ann")
    for part in ("falconry", "jazz", "live", "undone", "rome", "norm 0.25", "1.3"):
        assert part in shown
    assert "\x1b[31m" not in run(path, "show", "--user", "ben [bold]\x1b[31m")
    records = [json.loads(line) for line in run(path, "show", "-u", "ann", "--json").splitlines()]
    assert [record["live"] for record in records] == [True, True, False]
    assert records[0]["preference"]["target"] == "target of falconry"
    assert "Nothing is kept of nobody" in run(path, "show", "nobody")
    assert run(path, "show", "ann") == shown and "[live, in weights]" in shown
    with pytest.raises(StoreError, match="Whose is it"):
        run(path, "show")


def test_undo_the_last_one_by_number_and_to_a_version(path):
    assert "tea" in run(path, "undo", "--user", "ann")
    assert "falconry" in run(path, "undo", "--user", "ann", "--edit", "1")
    assert "Nothing to undo" in run(path, "undo", "--user", "ann", "--to-version", "0")
    with pytest.raises(StoreError, match="no edit 99"):
        run(path, "undo", "--user", "ann", "--edit", "99")


def test_forget_asks_first(path):
    asked = CliRunner().invoke(app, ["store", "forget", "--user", "ann", "--store", str(path)], input="n\n")
    assert asked.exit_code == 1 and "cannot be taken back" in asked.output and "ann" in run(path, "ls")
    assert "ann: 3 edits forgotten" in run(path, "forget", "--user", "ann", "--user", "nobody", "--yes")
    assert "ann" not in run(path, "ls") and b"falconry" not in path.read_bytes()


def test_export_one_and_all(path, tmp_path):
    assert str(tmp_path / "one") in run(
        path, "export-lora", str(tmp_path / "one"), "--user", "ann", "--base-model", "b"
    )
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "b" and config["r"] == 8
    run(path, "export-lora", str(tmp_path / "all"), "--all")
    assert set(json.loads((tmp_path / "all" / "index.json").read_text())["adapters"]) == {"ann", "ben [bold]\x1b[31m"}
    with pytest.raises(StoreError, match="--user ID, or --all"):
        run(path, "export-lora", str(tmp_path / "none"))


def test_export_all(path, tmp_path):
    assert str(tmp_path / "ann") in run(path, "export-all", "--user", "ann", "--out", str(tmp_path / "ann"))
    assert len(json.loads((tmp_path / "ann" / "everything.json").read_text())["edits"]) == 3
    with pytest.raises(StoreError, match="nothing about this user"):
        run(path, "export-all", "--user", "nobody", "--out", str(tmp_path / "nobody"))


def test_rotate_key(tmp_path, monkeypatch):
    pytest.importorskip("cryptography", reason="cryptography is not installed (extra `encryption`)")
    old, new = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    monkeypatch.setenv("EASYEDIT_PERSONAL_STORE_KEY", old)
    with EditStore.open(tmp_path / "edits.db") as store:
        store.put("ann", edit("a"))
    monkeypatch.setenv("EASYEDIT_PERSONAL_STORE_KEY", f"{new},{old}")
    assert "1 users are wrapped" in run(tmp_path / "edits.db", "rotate-key")
    monkeypatch.setenv("EASYEDIT_PERSONAL_STORE_KEY", new)
    assert "All 1 edits are whole" in run(tmp_path / "edits.db", "verify")


def test_what_users_share_is_said_apart(tmp_path):
    path = tmp_path / "edits.db"
    with EditStore.open(path) as store:
        store.put("ben", natural("c", "hobby"))
        for name, kind in (("a", "hobby"), ("b", "pet")):
            store.put("ann", natural(name, kind), preference=preference(name))
        edit = store.history("ann")[0]
    sizes = f"{edit.nbytes / 1000:.1f} kB, {edit.shared_bytes / 1000:.1f} kB shared by all users"
    assert run(path, "show", "--user", "ann").count(sizes) == 2 and edit.shared_bytes > 2 * edit.nbytes
    assert json.loads(run(path, "stats", "--json"))["shared_bytes"] == 2 * edit.shared_bytes
    assert "own factors.\nThe store" in run(path, "compact", "--user", "ann", "--rank", "15")
    assert "Rank 9 leaves no room for factors that other users share" in run(
        path, "compact", "--user", "ann", "--rank", "9"
    )
    assert json.loads(run(path, "stats", "--json"))["shared_bytes"] == edit.shared_bytes


def test_verify_stats_compact_backup_and_vacuum(path, tmp_path):
    assert "All 4 edits are whole" in run(path, "verify")
    found = json.loads(run(path, "stats", "--json"))
    assert found["users"] == 2 and found["live"] == 3
    assert "factor_bytes" in run(path, "stats")
    with pytest.raises(StoreError, match="too small"):
        run(path, "compact", "--user", "ann", "--rank", "1", "--max-error", "0.01")
    held = path.stat().st_size
    shown = run(path, "compact", "--user", "ann", "--rank", "3")
    assert "rank 8 -> 3" in shown and f"The store: {held:,} -> {path.stat().st_size:,} bytes" in shown
    again = run(path, "compact", "--user", "ann", "--rank", "3")
    assert f"{path.stat().st_size:,} bytes: nothing to merge, the edits are within that rank already." in again
    assert "merged into 6" in run(path, "show", "--user", "ann")
    assert "bytes" in run(path, "backup", str(tmp_path / "copy.db"))
    assert "All 5 edits are whole" in run(tmp_path / "copy.db", "verify")
    before, after = (int(word.replace(",", "")) for word in run(path, "vacuum").split() if word[0].isdigit())
    assert 0 < after <= before


def test_verify_names_what_is_damaged_and_ends_with_1(path):
    data = path.read_bytes()
    at = data.index(edit("tea")[0].left.numpy().tobytes()[100:140])
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    shown = run(path, "verify", fails=1)
    assert "edit 2 of ann" in shown and "damaged" in shown and "1 faults" in shown


def test_a_mistyped_path_makes_no_store(tmp_path):
    with pytest.raises(StoreError, match="no such store"):
        run(tmp_path / "typo.db", "ls")
    assert list(tmp_path.iterdir()) == []
