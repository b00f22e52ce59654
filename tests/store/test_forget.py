"""Forgotten means gone: no byte of a user is found again in any of the store's files."""

from __future__ import annotations

import logging
import random
import sqlite3
import subprocess
from pathlib import Path

import pytest

from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore
from tests.store.samples import edit, preference


def put(store: EditStore, user: str, number: int = 0, rank: int = 2) -> None:
    """An edit whose every part names its user."""
    deltas = edit(f"{user}{number}", rank=rank)
    store.put(user, deltas, preference=preference(user, user=user), key=f"key of {user} {number}", kernel="rome")


def needles(user: str, number: int = 0, rank: int = 2) -> list[bytes]:
    """Bytes that only this user's edit can have left: the id, and pieces of the factors and of the record."""
    from easyedit_personal.store.rows import pack_record

    delta = edit(f"{user}{number}", rank=rank)[0]
    record = pack_record(user, preference(user, user=user), None)
    pieces = [tensor.numpy().tobytes()[i : i + 16] for tensor in (delta.left, delta.right) for i in (0, 80, 150)]
    return [
        user.encode(),
        *(piece for piece in pieces if len(piece) == 16),
        record[: len(record) // 2],
        record[len(record) // 2 :],
    ]


def found(folder: Path, user: str, **which: int) -> list[str]:
    """Which files, in whichever folder, still hold something of the user."""
    files = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return [name for name, data in files.items() for needle in needles(user, **which) if needle in data]


def test_needles_are_found_before_and_gone_after(tmp_path):
    with EditStore.open(tmp_path / "edits.db") as store:
        for user in ("anastasia-1", "benedict-22"):
            for number in (0, 1):
                put(store, user, number)
        most = len(needles("anastasia-1")) - 2  # a piece may lie across two pages
        assert len(found(tmp_path, "anastasia-1")) >= most
        assert store.forget("anastasia-1") == 2
        # While the store stays open: also nothing in the log and its index.
        assert {file.name for file in tmp_path.iterdir()} >= {"edits.db-wal", "edits.db-shm"}
        assert found(tmp_path, "anastasia-1") == found(tmp_path, "anastasia-1", number=1) == []
        assert len(found(tmp_path, "benedict-22")) >= most
        # The salted digest may outlive the user inside of an index's pages, until vacuum.
        store.vacuum()
        assert store._owner("anastasia-1") not in (tmp_path / "edits.db").read_bytes()
    assert found(tmp_path, "anastasia-1") == []


def test_factors_elsewhere_are_gone_too(tmp_path):
    with EditStore.open(tmp_path / "edits.db", factors=str(tmp_path / "factors")) as store:
        for user in ("anastasia-1", "benedict-22"):
            put(store, user)
        objects = [file for file in (tmp_path / "factors").rglob("*") if file.is_file()]
        assert {"edits.db-wal", *(file.name for file in objects)} >= {*found(tmp_path, "anastasia-1")} != set()
        assert any(needle in file.read_bytes() for file in objects for needle in needles("anastasia-1"))
        store.forget("anastasia-1")
        assert found(tmp_path, "anastasia-1") == [] != found(tmp_path, "benedict-22")
        folders = [folder.name for folder in (tmp_path / "factors").iterdir()]
        assert folders == [store._owner("benedict-22").hex()]


def test_the_log_of_a_whole_life_names_nobody(tmp_path, caplog):
    """Everything down to SQL is logged; users' ids, words and factors are bound parameters, which are hidden."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, logger="sqlalchemy.engine")  # at DEBUG it writes down whole rows
    with EditStore.open(tmp_path / "edits.db", factors=str(tmp_path / "factors")) as store:
        for number in range(3):
            put(store, "anastasia-1", number)
        store.undo("anastasia-1")
        store.compact("anastasia-1", 3)
        store.export_lora("anastasia-1", tmp_path / "adapter")
        store.export_all("anastasia-1", tmp_path / "all")
        assert store.verify() == []
        store.forget("anastasia-1")
    assert "INSERT INTO edits" in caplog.text
    assert [word for word in ("anastasia-1", "pastime", "favorite", "key of") if word in caplog.text] == []


def test_undone_and_compacted_edits_are_gone_too(tmp_path):
    with EditStore.open(tmp_path / "edits.db") as store:
        for number in range(4):
            put(store, "anastasia-1", number)
        store.undo("anastasia-1")
        store.compact("anastasia-1", 4)
        assert [n for n in range(4) if len(found(tmp_path, "anastasia-1", number=n)) > 1] != []
        store.forget("anastasia-1")
        for number in range(4):
            assert found(tmp_path, "anastasia-1", number=number) == []


def test_no_neighbour_is_left_behind_when_many_come_and_go(tmp_path):
    """Deleting rows would leave stale copies of their neighbours in rebuilt pages; see ``maintenance.erase``."""
    rng, here, gone = random.Random(0), [], []
    with EditStore.open(tmp_path / "edits.db") as store:
        for _ in range(250):
            if here and rng.random() < 0.4:
                gone.append(here.pop(rng.randrange(len(here))))
                store.forget(gone[-1][0])
            else:
                user = f"user-{rng.getrandbits(64):016x}"
                here.append((user, rng.choice((1, 2, 7, 20))))
                put(store, user, rank=here[-1][1])
        assert store.verify() == [] and set(store.users()) == {user for user, _ in here}
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        left = [user for user, rank in gone if any(needle in files for needle in needles(user, rank=rank))]
        assert left == [] and len(gone) > 70
        # The guard is that rows are emptied, not deleted: too rare an accident to be caught by this test's numbers.
        with sqlite3.connect(tmp_path / "edits.db") as connection:
            assert connection.execute("SELECT count(*) FROM edits").fetchone() == (len(here) + len(gone),)
        connection.close()


def test_the_room_of_the_forgotten_is_used_again(tmp_path):
    with EditStore.open(tmp_path / "edits.db") as store:
        for _ in range(6):
            for number in range(10):
                put(store, f"user {number}", rank=20)
            for number in range(10):
                store.forget(f"user {number}")
        # Of a forgotten edit, one page may stay, empty, until vacuum.
        assert (tmp_path / "edits.db").stat().st_size < 60 * 512 + 10 * 1.2 * 20 * 4 * (24 + 40)
        store.vacuum()
        assert (tmp_path / "edits.db").stat().st_size < 36 * 512
        assert list(store.users()) == [] and store.stats()["edits"] == 0


def test_a_reader_who_keeps_the_log_busy_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("easyedit_personal.store.database.PATIENCE", 0.2)
    with EditStore.open(tmp_path / "edits.db") as store:
        put(store, "anastasia-1")
        reader = sqlite3.connect(tmp_path / "edits.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM edits").fetchone()
        with pytest.raises(StoreError, match=r"(?s)not from its log.*forget again"):
            store.forget("anastasia-1")
        assert store.deltas("anastasia-1") == []
        reader.close()
        assert store.forget("anastasia-1") == 0
        assert found(tmp_path, "anastasia-1") == []


@pytest.mark.server
def test_postgresql_s_tables_hold_nothing_after_a_vacuum(postgres, tmp_path):
    import psycopg

    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE forgetting")
        folder = Path(connection.execute("SHOW data_directory").fetchone()[0])
        with EditStore.open(postgres.format("forgetting")) as store:
            put(store, "anastasia-1")
            put(store, "benedict-22")

            def hits(user: str) -> bool:
                connection.execute("CHECKPOINT")
                here = subprocess.run(["grep", "-rlaF", user, str(folder / "base")], capture_output=True, text=True)
                return bool(here.stdout)

            assert hits("anastasia-1") and hits("benedict-22")
            assert store.forget("anastasia-1") == 1
            store.vacuum()
            assert not hits("anastasia-1") and hits("benedict-22")
