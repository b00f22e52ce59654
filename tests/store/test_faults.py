"""What a store refuses, and how it fails: clearly, naming what is wrong, and never with somebody else's factors."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore
from easyedit_personal.types import Preference, WeightDelta
from tests.store.samples import LAYER, edit, joined, preference, same

HOSTILE = [
    "../../etc/passwd",
    "a/b\\c:d*e?f",
    "'; DROP TABLE edits; --",
    '" OR 1=1 --',
    "%",
    "_",
    "{user}",
    "%s %(name)s :name ?",
    "🎈" * 200,
    "ann\n\r\t\x1b[31m",
    "Ann",
    "ann ",
    " ",
    "e\u0301",
    "\u00e9",  # the same letter as the one before to a person, another id to us
    "\u202egnp.exe",
    "x" * 1024,
]


def test_hostile_ids_are_users_like_any_other(store):
    for name in ["ann", *HOSTILE]:
        store.put(name, edit(name), preference=preference(name, user=name), key=name)
    assert set(store.users()) == {"ann", *HOSTILE}
    for name in ["ann", *HOSTILE]:
        assert same(store.deltas(name), edit(name)) and store.preferences(name) == [preference(name, user=name)]
    for name in HOSTILE:
        assert store.forget(name) == 1
    assert list(store.users()) == ["ann"] and store.verify() == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "0 bytes"),
        ("x" * 1025, "1,025 bytes"),
        ("x" * 10_240, "10,240 bytes"),
        ("🎈" * 300, "1,200 bytes"),
        ("a\0b", "NUL"),
        ("half a \ud83d pair", "surrogate"),
        (None, "NoneType"),
        (b"ann", "bytes"),
    ],
)
def test_ids_that_cannot_be_kept_are_refused_everywhere(store, name, says):
    for call in (
        lambda: store.put(name, edit("a")),
        lambda: store.deltas(name),
        lambda: store.version(name),
        lambda: store.history(name),
        lambda: store.preferences(name),
        lambda: store.undo(name),
        lambda: store.forget(name),
        lambda: store.compact(name, 4),
    ):
        with pytest.raises(StoreError, match=says) as caught:
            call()
        assert len(str(caught.value)) < 500
    assert list(store.users()) == []
    if name is not None:
        with pytest.raises(StoreError, match=says):
            store.put("ann", edit("a"), key=name)


def spoilt(value: float) -> list[WeightDelta]:
    """A valid record whose tensor was spoilt afterwards, as an optimiser's in-place step does."""
    deltas = edit("a")
    deltas[0].right[2, 3] = value
    return deltas


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_factors_that_are_not_finite_are_refused(store, value):
    with pytest.raises(StoreError, match=r"(?s)not finite.*remedy"):
        store.put("ann", spoilt(value))
    assert store.history("ann") == []


def test_factors_that_overflow_when_rounded_are_refused(store):
    with pytest.raises(StoreError, match="not finite"):
        store.put("ann", spoilt(torch.finfo(torch.float32).max), dtype="bfloat16")
    store.put("ann", spoilt(torch.finfo(torch.float32).max))
    wide = WeightDelta(LAYER, torch.full((24, 1), 1e200, dtype=torch.float64), torch.ones(1, 40, dtype=torch.float64))
    with pytest.raises(StoreError, match="not finite"):
        store.put("ann", [wide])


def test_a_huge_rank_is_refused_with_its_cure(store):
    with pytest.raises(StoreError, match=r"(?s)rank 5000 of a matrix of 24 x 40.*WeightDelta.dense"):
        store.put("ann", edit("a", rank=5000))
    store.put("ann", edit("a", rank=24))
    assert len(store.history("ann")) == 1


def test_what_is_no_edit_is_refused(store):
    with pytest.raises(StoreError, match="nothing to keep"):
        store.put("ann", [])
    with pytest.raises(StoreError, match=r"(?s)float16.*float32 or bfloat16"):
        store.put("ann", edit("a"), dtype="float16")
    with pytest.raises(StoreError, match="preference"):
        store.put("ann", edit("a"), preference=Preference("hobby", "What?", object()))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="too long"):
        store.put("ann", edit("a"), preference=Preference("hobby", "What?", "x" * 2**21))
    with pytest.raises(StoreError, match="health"):
        store.put("ann", edit("a"), health={"norm": "large"})  # type: ignore[dict-item]
    assert store.stats()["edits"] == 0 and store.version("ann") == 0


def test_health_may_be_infinite_and_words_may_be_broken(store):
    said = Preference("hobby", "half a \ud83d pair?", "it's\0")
    store.put("ann", edit("a"), preference=said, health={"perplexity_ratio": float("inf")})
    (kept,) = store.history("ann")
    assert kept.health["perplexity_ratio"] == float("inf") and kept.preference.question == said.question


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        (":memory:", "in memory"),
        ("", "in memory"),
        ("mysql://u@h/d", "no store for this kind"),
        ("://", "cannot be read"),
        ("/no/such/folder/edits.db", r"(?s)folder is missing.*make the folder first"),
    ],
)
def test_addresses_that_are_none(url, says):
    with pytest.raises(StoreError, match=says):
        EditStore.open(url)


def test_a_server_that_is_not_there(tmp_path):
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra `postgres`)")
    with pytest.raises(StoreError, match=r"(?s)does not run.*check the address") as caught:
        EditStore.open(f"postgresql://u:secret@/d?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_a_file_or_database_of_somebody_else_is_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("Dear diary, " * 1000)
    with pytest.raises(StoreError, match="not a database"):
        EditStore.open(text)
    assert text.read_text() == "Dear diary, " * 1000
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(StoreError, match=r"(?s)no store of ours.*recipes"):
        EditStore.open(other)
    assert other.read_bytes() == before


def test_only_the_owner_may_read_a_new_store(sqlite_path):
    with EditStore.open(sqlite_path) as store:
        store.put("ann", edit("a"))
        modes = {file.name: file.stat().st_mode & 0o777 for file in sqlite_path.parent.iterdir()}
        store.backup(sqlite_path.with_name("copy.db"))
    assert set(modes.values()) == {0o600} and len(modes) == 4
    assert sqlite_path.with_name("copy.db").stat().st_mode & 0o777 == 0o600


FLIPS = 120


def flip(path: Path, offset: int, bit: int = 3) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_flipped_bit_in_a_factor_is_found_and_named(sqlite_path):
    needle = edit("ben2")[0].left.numpy().tobytes()[100:140]
    flip(sqlite_path, sqlite_path.read_bytes().index(needle) + 7)
    with EditStore.open(sqlite_path) as store:
        with pytest.raises(StoreError, match=r"(?s)'ben' is damaged.*remedy:.*backup"):
            store.deltas("ben")
        assert same(store.deltas("ann"), joined("ann1", "ann2"))
        (fault,) = store.verify()
        bad = store.history("ben")[1].id
        assert (fault.edit, fault.user) == (bad, "ben") and "damaged" in fault.what
        store.undo("ben", bad)  # the cure that the message names
        assert same(store.deltas("ben"), edit("ben1"))


def test_any_flipped_bit_gives_the_truth_or_an_error(sqlite_path, tmp_path):
    users, truth, rng = ("ann", "ben", "cleo"), {}, random.Random(0)
    for user in users:
        truth[user] = joined(f"{user}1", f"{user}2")
    copy, caught = tmp_path / "copy.db", 0
    for _ in range(FLIPS):
        shutil.copy(sqlite_path, copy)
        flip(copy, rng.randrange(copy.stat().st_size), rng.randrange(8))
        try:
            with EditStore.open(copy) as store:
                # Where an index is hit, an edit may hide; verify has to notice that.
                assert all(same(store.deltas(user), truth[user]) for user in users) or store.verify()
                for read in (store.history, store.preferences, store.version, store.undo):
                    read("ann")
                assert {*store.users()} and store.stats()
        except StoreError:
            caught += 1
        for suffix in ("-wal", "-shm"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    assert caught > 30


@pytest.mark.parametrize("share", [0.0, 0.001, 0.03, 0.3, 0.7, 0.97])
def test_a_truncated_file_is_refused(sqlite_path, share):
    size = sqlite_path.stat().st_size
    with sqlite_path.open("r+b") as file:
        file.truncate(int(size * share))
    with pytest.raises(StoreError, match="backup"), EditStore.open(sqlite_path) as store:
        for user in ("ann", "ben", "cleo"):
            assert same(store.deltas(user), joined(f"{user}1", f"{user}2"))


def test_a_backup_is_a_store(sqlite_path, tmp_path):
    copy = tmp_path / "copy.db"
    with EditStore.open(sqlite_path) as store:
        with EditStore.open(sqlite_path) as other:
            other.put("dora", edit("d"))  # still in the log
            assert store.backup(copy) == copy.stat().st_size
            other.put("late", edit("l"))
        with pytest.raises(StoreError, match="overwrite"):
            store.backup(copy)
        with pytest.raises(StoreError, match="cannot be written"):
            store.backup(tmp_path / "no" / "folder.db")
    with EditStore.open(copy) as store:
        assert set(store.users()) == {"ann", "ben", "cleo", "dora"} and store.verify() == []
        assert same(store.deltas("ann"), joined("ann1", "ann2"))
        assert store.put("ann", edit("x")) > max(edit.id for edit in store.history("dora"))
        assert copy.with_name("copy.db-wal").exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".part") == []


def test_postgresql_has_its_own_backups(postgres, tmp_path):
    with EditStore.open(postgres.format("postgres")) as store, pytest.raises(StoreError, match="pg_dump"):
        store.backup(tmp_path / "copy.db")


test_postgresql_has_its_own_backups = pytest.mark.server(test_postgresql_has_its_own_backups)

FILL = """
import sys, resource
from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore
from tests.store.samples import edit
with EditStore.open(sys.argv[1]) as store:
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    for number in range(400):
        try:
            store.put("ann", edit(str(number)), key=str(number))
        except StoreError as error:
            print("full", number, flush=True)
            print(error, file=sys.stderr)
            sys.exit(3)
        print(number, flush=True)
"""


def check_after_full(path: Path, done: subprocess.CompletedProcess[str], *, room: bool = True) -> None:
    """Everything acknowledged is there, what failed is not, and with room again the store goes on."""
    assert done.returncode == 3, done.stderr
    *acknowledged, last = done.stdout.splitlines()
    assert last == f"full {len(acknowledged)}" and len(acknowledged) > 3
    assert "full" in done.stderr and "what was acknowledged is safe" in done.stderr and "Traceback" not in done.stderr
    with EditStore.open(path) as store:
        assert same(store.deltas("ann"), joined(*acknowledged)) and store.verify() == []
        if room:
            store.put("ann", edit("next"))
            assert len(store.history("ann")) == len(acknowledged) + 1


def test_a_quota_that_is_used_up(tmp_path):
    command = [sys.executable, "-c", FILL, str(tmp_path / "edits.db"), "300000"]
    check_after_full(tmp_path / "edits.db", subprocess.run(command, capture_output=True, text=True))


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    try:
        command = [sys.executable, "-c", FILL, str(disk / "edits.db")]
        done = subprocess.run(command, capture_output=True, text=True)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        check_after_full(disk / "edits.db", done)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
