"""Everything about one person: all of it, readable without us, and nothing of anybody else."""

from __future__ import annotations

import json

import pytest

from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore
from easyedit_personal.store.factors import load_factors
from tests.store.samples import edit, joined, preference, same


def test_all_edits_live_undone_and_merged(store, tmp_path):
    for name in ("falconry", "tea", "jazz"):
        store.put("ann", edit(name), preference=preference(name), kernel="rome", hparams={"v_lr": 0.5}, key=name)
    store.put("ben", edit("chess"), preference=preference("chess"))
    store.undo("ann")
    folder = store.export_all("ann", tmp_path / "ann")
    record = json.loads((folder / "everything.json").read_text(encoding="utf-8"))
    assert record["user"] == "ann" and record["version"] == store.version("ann")
    assert [one["live"] for one in record["edits"]] == [True, True, False]
    assert [one["preferences"][0]["target"] for one in record["edits"]] == [
        "target of falconry",
        "target of tea",
        "target of jazz",
    ]
    assert record["edits"][0]["hparams"] == {"v_lr": 0.5} and record["edits"][0]["created"].endswith("+00:00")
    for one, name in zip(record["edits"], ("falconry", "tea", "jazz")):
        assert same(load_factors(folder / one["factors"])[0], edit(name))
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["r"] == 8
    assert "chess" not in "".join(file.read_text("latin-1") for file in folder.rglob("*") if file.is_file())
    assert folder.stat().st_mode & 0o077 == 0
    store.compact("ann", 8)
    assert store.compact("ann", 3).merged
    record = json.loads((store.export_all("ann", folder) / "everything.json").read_text(encoding="utf-8"))
    assert [one["factors"] is None for one in record["edits"]] == [True, True, False, True, False]
    assert len(store.history("ann")) == len(record["edits"])
    assert same(store.deltas("ann"), load_factors(folder / record["edits"][-1]["factors"])[0])


def test_without_live_edits_there_is_no_adapter(store, tmp_path):
    store.put("ann", edit("a"))
    store.undo("ann")
    folder = store.export_all("ann", tmp_path / "ann")
    assert {entry.name for entry in folder.iterdir()} == {"everything.json", "factors"}
    assert not same(joined("a"), store.deltas("ann"))


def test_factors_elsewhere_come_along(tmp_path):
    with EditStore.open(tmp_path / "edits.db", factors=str(tmp_path / "factors")) as store:
        store.put("ann", edit("a"))
        folder = store.export_all("ann", tmp_path / "ann")
        assert same(load_factors(next((folder / "factors").iterdir()))[0], edit("a"))


def test_nobody_and_other_folders_are_refused(store, tmp_path):
    with pytest.raises(StoreError, match="nothing about this user"):
        store.export_all("ann", tmp_path / "ann")
    assert not (tmp_path / "ann").exists()
    store.put("ann", edit("a"))
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="other files"):
        store.export_all("ann", tmp_path / "ann")
    assert (tmp_path / "ann" / "thesis.txt").read_text() == "years of work"
