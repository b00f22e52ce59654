"""Factors outside of the database: the same store, with bytes in a folder or in fsspec's memory."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import fsspec
import pytest

from easyedit_personal.errors import MissingDependencyError, StoreError, StoreUnavailable
from easyedit_personal.store import EditStore, maintenance
from easyedit_personal.store.blobs import Blobs, _aware, size_of
from easyedit_personal.store.entries import NewEdit
from tests.store.samples import edit, joined, overtaken, preference, same


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where factors go."""
    if request.param == "local":
        yield str(tmp_path / "factors")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    memory = fsspec.filesystem("memory")
    if memory.exists(url):
        memory.rm(url, recursive=True)


@pytest.fixture
def store(url: str, place: str) -> Iterator[EditStore]:
    """Open, with factors elsewhere."""
    with EditStore.open(url, factors=place) as opened:
        yield opened


def objects(place: str) -> list[str]:
    """All objects there."""
    fs, root = fsspec.core.url_to_fs(place)
    return sorted(fs.find(root)) if fs.exists(root) else []


def test_everything_a_store_does(store, place):
    first = store.put("ann", edit("a"), preference=preference("a"), key="k")
    assert store.put("ann", edit("a"), key="k") == first and len(objects(place)) == 1
    store.put("ann", edit("b", rank=8))
    store.put("ben", edit("a"))
    assert same(store.deltas("ann"), _wide("a", "b")) and same(store.deltas("ben"), edit("a"))
    assert len(objects(place)) == 3 and store.verify() == []
    sizes = [one.nbytes for one in store.history("ann")]
    assert sizes[0] > 4 * (24 + 40) * 4 and sizes[1] > 8 * (24 + 40) * 4
    assert store.stats()["factor_bytes"] == sum(sizes) + store.history("ben")[0].nbytes
    store.undo("ann")
    assert same(store.deltas("ann"), edit("a")) and len(objects(place)) == 3
    assert store.forget("ann") == 2
    assert len(objects(place)) == 1 and store.deltas("ann") == [] and store.verify() == []
    assert store.forget("ann") == 0


def _wide(*names: str):
    from easyedit_personal.store.compact import composed

    return composed([edit(names[0])[0], edit(names[1], rank=8)[0]])


def test_compacting_replaces_objects(store, place):
    for name in "abc":
        store.put("ann", edit(name))
    report = store.compact("ann", 6)
    assert len(objects(place)) == 1 and store.verify() == [] and report.bytes_before > report.bytes_after
    assert store.deltas("ann")[0].rank == 6 and store.compact("ann", 6).merged == ()
    assert len(objects(place)) == 1


def test_a_compaction_that_somebody_was_faster_than_leaves_no_object(store, place, monkeypatch):
    for name in "ab":
        store.put("ann", edit(name))
    late = overtaken(store, monkeypatch)
    assert store.compact("ann", 5).merged[-1] == late[0]
    assert len(objects(place)) == 1 and store.verify() == []


def test_a_reader_who_comes_in_the_middle_of_a_compaction(store, monkeypatch):
    for name in "ab":
        store.put("ann", edit(name))
    blobs, once = store._blobs, []
    get = blobs.get

    def slow(owner: bytes, reference: bytes) -> bytes:
        if not once:
            once.append(True)
            store.compact("ann", 2)
        return get(owner, reference)

    monkeypatch.setattr(blobs, "get", slow)
    assert store.deltas("ann")[0].rank == 2


def test_what_is_superseded_stays_and_what_is_refused_goes(store, place):
    first = store.put("ann", edit("a"))
    version = store.version("ann")
    store.supersede("ann", version, first, [NewEdit(edit("b")), NewEdit(edit("c"))])
    assert same(store.deltas("ann"), joined("b", "c")) and len(objects(place)) == 3 and store.verify() == []
    with pytest.raises(StoreError, match="changed meanwhile"):
        store.supersede("ann", version, first, [NewEdit(edit("d"))])
    assert len(objects(place)) == 3


def test_somebody_is_forgotten_while_they_put(store, place, monkeypatch):
    store.put("ann", edit("a"))
    put, forgotten_edits = store._blobs.put, []

    def forgotten(owner: bytes, data: bytes) -> bytes:
        reference = put(owner, data)
        forgotten_edits.append(store.forget("ann"))
        return reference

    monkeypatch.setattr(store._blobs, "put", forgotten)
    store.put("ann", edit("b"))
    monkeypatch.setattr(store._blobs, "put", put)
    assert forgotten_edits[0] == 1  # in an encrypted store the edit is encrypted again, with a new key
    assert same(store.deltas("ann"), edit("b")) and len(objects(place)) == 1 and store.verify() == []


def test_missing_and_damaged_objects_are_named(store, place):
    for user in ("ann", "ben", "cleo"):
        store.put(user, edit(user))
    fs, _ = fsspec.core.url_to_fs(place)
    gone, bad = _object(store, place, "ann"), _object(store, place, "ben")
    fs.rm(gone)
    data = fs.cat_file(bad)
    fs.pipe_file(bad, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(StoreError, match="missing"):
        store.deltas("ann")
    with pytest.raises(StoreError, match="damaged"):
        store.deltas("ben")
    assert same(store.deltas("cleo"), edit("cleo"))
    assert {fault.user for fault in store.verify()} == {"ann", "ben"}


def _object(store: EditStore, place: str, user: str) -> str:
    (found,) = [path for path in objects(place) if store._owner(user).hex() in path]
    return found


def test_the_store_remembers_the_place(url, place):
    with EditStore.open(url) as store:
        store.put("old", edit("o"))  # from before there was one
    with EditStore.open(url, factors=place) as store:
        store.put("ann", edit("a"))
    with EditStore.open(url) as store:
        assert same(store.deltas("ann"), edit("a")) and same(store.deltas("old"), edit("o"))
        store.put("ann", edit("b"))
        assert len(objects(place)) == 2 and same(store.deltas("ann"), joined("a", "b"))
        assert store.stats()["factors"] == place and store.verify() == []
    with pytest.raises(StoreError, match="keeps its factors elsewhere"):
        EditStore.open(url, factors="memory://other")


def test_vacuum_sweeps_what_no_row_names(store, place, monkeypatch):
    store.put("ann", edit("a"))
    owner = store._owner("ann")
    store._blobs.put(owner, b"a put that died before its row")
    store._blobs.put(store._owner("ben"), b"of a user who never came")
    store.vacuum()
    assert len(objects(place)) == 3  # it may be under way
    sweep = Blobs.sweep
    monkeypatch.setattr(Blobs, "sweep", lambda self, owner, named: sweep(self, owner, named, timedelta(0)))
    store.vacuum()
    assert len(objects(place)) == 1 and same(store.deltas("ann"), edit("a"))


@pytest.mark.parametrize("meanwhile", ["forgotten", "removed"])
def test_a_sweep_goes_on_where_somebody_is_faster(store, place, monkeypatch, meanwhile):
    for user in ("ann", "ben"):
        store.put(user, edit("a"))
        store._blobs.put(store._owner(user), b"a put that died before its row")
    sweep, owner = Blobs.sweep, store._owner("ann")

    def slow(self, whose, named):
        if whose == owner and meanwhile == "forgotten":
            store.forget("ann")
        if whose == owner and meanwhile == "removed":
            ls, fs = self._fs.ls, self._fs
            monkeypatch.setattr(fs, "ls", lambda *given, **options: [*ls(*given, **options), f"{given[0]}/{'0' * 32}"])
        return sweep(self, whose, named, timedelta(0))

    monkeypatch.setattr(Blobs, "sweep", slow)
    store.vacuum()
    monkeypatch.undo()
    assert len(objects(place)) == (1 if meanwhile == "forgotten" else 2) and store.verify() == []


def test_a_put_that_fails_leaves_nothing_that_is_seen(store, place, monkeypatch):
    store.put("ann", edit("a"))

    def fails(*_: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr("easyedit_personal.store.entries.add_edit", fails)
    with pytest.raises(StoreError, match="is gone"):
        store.put("ann", edit("b"))
    monkeypatch.undo()
    assert same(store.deltas("ann"), edit("a")) and store.verify() == []
    store.forget("ann")
    assert objects(place) == []  # also the one without a row


def test_a_backup_takes_the_factors_along(tmp_path, place):
    with EditStore.open(tmp_path / "edits.db", factors=place) as store:
        for user in ("ann", "ben"):
            store.put(user, edit(user))
        store.backup(tmp_path / "copy.db")
        store.forget("ann")
    (tmp_path / "away").mkdir()
    for name in ("copy.db", "copy.db.factors"):
        shutil.move(tmp_path / name, tmp_path / "away" / name)
    with EditStore.open(tmp_path / "away" / "copy.db") as copy:
        assert same(copy.deltas("ann"), edit("ann")) and copy.verify() == []
        copy.put("cleo", edit("c"))
    assert len(objects(str(tmp_path / "away" / "copy.db.factors"))) == 3


def test_only_the_owner_may_read_the_folder_and_what_is_no_place(tmp_path):
    with EditStore.open(tmp_path / "edits.db", factors=str(tmp_path / "factors")):
        assert (tmp_path / "factors").stat().st_mode & 0o777 == 0o700
    with pytest.raises(StoreError, match="cannot be kept at"):
        EditStore.open(tmp_path / "other.db", factors="nowhere://x")
    assert not (tmp_path / "other.db").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable):
        EditStore.open(tmp_path / "third.db", factors=str(tmp_path / "file" / "factors"))


def test_a_forgotten_user_is_locked_against_a_put_under_way(url):
    """Without the lock, PostgreSQL would drop the user of an edit that is put at the same time."""
    import threading

    with EditStore.open(url) as store, EditStore.open(url) as other:
        store.put("ann", edit("a"))
        with store._database.writing() as connection:
            from easyedit_personal.store.queries import touch

            touch(connection, store._owner("ann"))
            forgetting = threading.Thread(
                target=maintenance.erase, args=(other._database, store._owner("ann"), None, other._shared)
            )
            forgetting.start()
            forgetting.join(0.5)
            assert forgetting.is_alive()
        forgetting.join()
        store.put("ann", edit("b"))
        assert same(store.deltas("ann"), edit("b")) and store.verify() == []


def test_folders_are_on_the_disk_before_a_row_names_what_is_in_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("easyedit_personal.store.blobs._sync_folder", lambda path: synced.append(path))
    kept = Blobs(str(tmp_path / "factors"))
    kept.put(b"\x0a", b"data")
    assert synced == [f"{kept.url}/0a", kept.url]


def test_without_fsspec_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"(?s)need fsspec.*pip install fsspec"):
        Blobs(str(tmp_path))


def test_factors_in_the_row_are_as_long_as_they_are(store):
    store.put("ann", edit("a"))
    reference = store._blobs.put(store._owner("ann"), b"x" * 77)
    assert size_of(reference[:16], len(reference)) == 77
    assert size_of(b"\x01" * 16, 500) == 500 and size_of(b"", 0) == size_of(None, 0) == 0


def test_moments_without_a_zone_are_utc():
    noon = datetime(2026, 1, 2, 12)
    assert _aware(noon) == noon.replace(tzinfo=UTC)
    assert _aware(noon.replace(tzinfo=timezone(timedelta(hours=2)))) == datetime(2026, 1, 2, 10, tzinfo=UTC)
