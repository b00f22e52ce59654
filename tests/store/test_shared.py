"""Factors that many users share: kept once, encrypted where the store is, gone with the last edit that needs them."""

from __future__ import annotations

import random
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore, factors
from easyedit_personal.store.compact import composed, cut
from easyedit_personal.store.encryption import ENV
from easyedit_personal.store.entries import NewEdit
from easyedit_personal.store.factors import load_factors
from tests.store.conftest import KEY
from tests.store.samples import edit, gate, natural, preference, same
from tests.store.test_encryption import OTHER

OWN = 2 * (24 + 40) * 2  # bytes of a user's own factors: rank 2, two bytes per number
SHARED = 6 * (24 + 40) * 4  # bytes of a gate


def traces(folder: Path, kind: str) -> list[str]:
    """Which files hold any piece of a gate."""
    pieces = [
        data[start : start + 16]
        for data in (gate(kind).left.numpy().tobytes(), gate(kind).right.numpy().tobytes())
        for start in range(0, len(data), 160)
    ]
    files = (file for file in folder.rglob("*") if file.is_file())
    return [file.name for file in files if any(piece in file.read_bytes() for piece in pieces)]


def changed(path: Path, statement: str) -> None:
    """Write into the database behind the store's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_they_are_kept_once_and_read_as_they_were_put(store):
    for user in ("ann", "ben", "cleo"):
        store.put(user, natural(user, "hobby", "pet"), preference=preference(user))
        (parts,) = store.parts(user).values()
        assert [part.shared for part in parts] == [True, True, False] and same(parts, natural(user, "hobby", "pet"))
        assert same(store.deltas(user), composed(natural(user, "hobby", "pet")))
    (kept,) = store.history("ann")
    assert OWN < kept.nbytes < OWN + 600 and 2 * SHARED < kept.shared_bytes < 2 * SHARED + 600
    found = store.stats()
    assert (found["shared"], found["shared_bytes"]) == (2, kept.shared_bytes)
    assert found["factor_bytes"] == sum(one.nbytes for user in store.users() for one in store.history(user))
    store.put("dora", edit("d"))
    assert store.history("dora")[0].shared_bytes == 0 and store.verify() == []


def test_they_go_with_the_last_edit_that_needs_them(store):
    first = store.put("ann", natural("a", "hobby"), key="k")
    assert store.put("ann", natural("a", "hobby"), key="k") == first
    store.put("ann", natural("b", "hobby", "pet"))
    store.put("ben", natural("c", "pet"))
    assert store.stats()["shared"] == 2
    store.undo("ann")
    assert store.stats()["shared"] == 2, "what was undone may come back"
    assert store.forget("ann") == 2
    assert store.stats()["shared"] == 1 and same(store.deltas("ben"), composed(natural("c", "pet")))
    assert store.forget("ben") == 1 and store.stats()["shared"] == store.stats()["shared_bytes"] == 0
    with store._database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM shared_references").scalar_one() == 0
    store.put("ann", natural("d", "pet"))
    assert same(store.deltas("ann"), composed(natural("d", "pet"))) and store.verify() == []


def test_no_byte_of_a_gate_outlives_the_last_user_of_its_kind(tmp_path):
    with EditStore.open(tmp_path / "edits.db", factors=str(tmp_path / "factors")) as store:
        store.put("ann", natural("a", "hobby", "illness"))
        store.put("ben", natural("b", "hobby"))
        assert traces(tmp_path, "illness") and traces(tmp_path, "hobby")
        store.forget("ann")
        assert traces(tmp_path, "illness") == [] != traces(tmp_path, "hobby")
        assert same(store.deltas("ben"), composed(natural("b", "hobby"))) and store.verify() == []


def test_what_gave_way_comes_back_bit_for_bit(store):
    first = store.put("ann", natural("a", "hobby"), preference=preference("a"))
    before = store.deltas("ann")
    store.put("ann", natural("b", "pet"), instead=[first])
    assert same(store.deltas("ann"), composed(natural("b", "pet")))
    store.undo("ann")
    assert same(store.deltas("ann"), before) and store.verify() == []
    version = store.version("ann")
    store.supersede("ann", version, first, [NewEdit(natural("c", "hobby")), NewEdit(natural("d", "job"))])
    assert same(store.deltas("ann"), composed([*natural("c", "hobby"), *natural("d", "job")]))
    with pytest.raises(StoreError, match="changed meanwhile"):
        store.supersede("ann", version, first, [NewEdit(natural("e", "never"))])
    assert store.stats()["shared"] == 3 and store.verify() == []


def test_an_edit_of_shared_factors_alone_and_one_that_has_them_twice(store):
    store.put("ann", [gate("hobby")])
    store.put("ben", [gate("hobby"), gate("hobby"), *edit("b")])
    assert same(store.deltas("ann"), [gate("hobby")]) and store.stats()["shared"] == 1
    assert same(store.deltas("ben"), composed([gate("hobby"), gate("hobby"), *edit("b")])) and store.verify() == []


def test_compacting_leaves_them_shared_where_there_is_room(store):
    store.put("ben", natural("z", "hobby"))
    for name, kind in (("a", "hobby"), ("b", "pet")):
        store.put("ann", natural(name, kind))
    exact = composed([*natural("a", "hobby"), *natural("b", "pet")])
    report = store.compact("ann", 15)
    assert report.rank_before == {exact[0].layer: 16} and report.rank_after == {exact[0].layer: 15}
    assert report.shared_before == report.shared_after == 2 * SHARED and 0 < report.max_error < 0.5
    assert [part.shared for part in store.parts("ann")[report.edit]] == [True, True, False]
    assert report.bytes_after < OWN * 3 / 2 + 600 and store.stats()["shared"] == 2 and store.verify() == []
    store.undo("ann")
    assert store.deltas("ann") == [] and store.stats()["shared"] == 2
    store.forget("ann")
    assert store.stats()["shared"] == 1 and same(store.deltas("ben"), composed(natural("z", "hobby")))


def test_compacting_below_what_is_shared_makes_it_the_users_own(store):
    store.put("ben", natural("z", "hobby"))
    for name, kind in (("a", "hobby"), ("b", "pet")):
        store.put("ann", natural(name, kind))
    report = store.compact("ann", 12)  # the gates alone have that rank
    assert report.shared_before == 2 * SHARED and report.shared_after == 0
    assert report.bytes_after > report.bytes_before, "and the report says so"
    assert store.deltas("ann")[0].rank == 12 and store.stats()["shared"] == 1 and store.verify() == []


def test_a_cut_counts_matrix_by_matrix():
    other = "model.layers.1.mlp.down_proj"
    parts = [gate("hobby"), *edit("a"), *edit("b", layer=other)]
    assert [(part.layer, part.shared, part.rank) for part in cut(parts, 7)] == [
        (parts[0].layer, True, 6),
        (parts[0].layer, False, 1),
        (other, False, 4),
    ]
    assert [part.rank for part in cut(parts, 3)] == [3, 3] and not any(part.shared for part in cut(parts, 3))
    assert [(part.shared, part.rank) for part in cut([gate("hobby")], 6)] == [(True, 6)]
    assert [(part.shared, part.rank) for part in cut([gate("hobby")], 5)] == [(False, 5)]


def test_a_name_says_nothing_outside_of_its_store(tmp_path):
    names = []
    for place in ("one", "two"):
        with EditStore.open(tmp_path / f"{place}.db") as store:
            number = store.put("ann", natural("a", "hobby"))
            with store._database.reading() as connection:
                names.append(set(connection.exec_driver_sql("SELECT ticket, digest FROM shared_references").one()))
            assert number.to_bytes(8, "little") not in b"".join(names[-1])
    assert len(names[0] | names[1]) == 4


@pytest.fixture
def encrypted(monkeypatch):
    """A key in the environment."""
    pytest.importorskip("cryptography", reason="cryptography is not installed (extra `encryption`)")
    monkeypatch.setenv(ENV, KEY)


def test_they_are_encrypted_under_nobodys_key(encrypted, tmp_path, monkeypatch):
    with EditStore.open(tmp_path / "edits.db") as store:
        for user in ("ann", "ben"):
            store.put(user, natural(user, "hobby"))
        assert traces(tmp_path, "hobby") == []
        store.forget("ann")
        assert same(store.deltas("ben"), composed(natural("ben", "hobby")))
    monkeypatch.setenv(ENV, f"{OTHER},{KEY}")
    with EditStore.open(tmp_path / "edits.db") as store:
        store.rotate_key()
    monkeypatch.setenv(ENV, OTHER)
    with EditStore.open(tmp_path / "edits.db") as store:
        assert same(store.deltas("ben"), composed(natural("ben", "hobby"))) and store.verify() == []
        store.put("cleo", natural("cleo", "hobby"))
        assert store.stats()["shared"] == 1
    with closing(sqlite3.connect(tmp_path / "edits.db")) as connection, connection:
        connection.execute("UPDATE shared_factors SET digest = zeroblob(16)")
        connection.execute("UPDATE shared_references SET digest = zeroblob(16)")
    with EditStore.open(tmp_path / "edits.db") as store:
        assert {fault.user for fault in store.verify()} == {"ben", "cleo", None}


CONTENT = "UPDATE shared_factors SET content = {}"
DAMAGE = {
    "a byte": CONTENT.format("CAST(substr(content, 1, 400) || x'00' || substr(content, 402) AS BLOB)"),
    "cut off": CONTENT.format("substr(content, 1, 400)"),
    "gone": "DELETE FROM shared_factors",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_for_all_who_need_them_and_for_nobody_else(tmp_path, damage):
    path = tmp_path / "edits.db"
    with EditStore.open(path) as store:
        numbers = {store.put(user, natural(user, "hobby")) for user in ("ann", "ben")}
        store.put("cleo", edit("c"))
        changed(path, DAMAGE[damage])
        for user in ("ann", "ben"):
            with pytest.raises(StoreError, match=r"(?s)users share are (damaged|missing).*remedy:.*backup"):
                store.deltas(user)
        assert same(store.deltas("cleo"), edit("c"))
        faults = store.verify()
        assert {fault.edit for fault in faults if fault.edit} == numbers
        assert {fault.user for fault in faults if fault.edit} == {"ann", "ben"}
        store.undo("ann")  # the cure that the message names
        assert store.deltas("ann") == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("DELETE FROM shared_references", {"users share are missing", "1 shared factors belong to no edit"}),
        ("UPDATE shared_references SET ticket = zeroblob(16)", {"users share are missing", "1 references"}),
        ("UPDATE shared_references SET digest = zeroblob(16)", {"users share are missing", "1 shared factors"}),
        ("INSERT INTO shared_factors VALUES (x'01', x'02')", {"users share are damaged", "1 shared factors"}),
        ("INSERT INTO shared_references SELECT zeroblob(16), digest FROM shared_factors", {"1 references"}),
    ],
)
def test_verify_sees_whether_edits_and_what_they_share_belong_together(tmp_path, damage, says):
    path = tmp_path / "edits.db"
    with EditStore.open(path) as store:
        store.put("ann", natural("a", "hobby"))
        assert store.verify() == []
        changed(path, damage)
        faults = store.verify()
        assert len(faults) == len(says) and all(any(words in fault.what for fault in faults) for words in says)


def test_a_backup_an_export_and_a_copy_are_whole(store, tmp_path):
    for user in ("ann", "ben"):
        store.put(user, natural(user, "hobby"), preference=preference(user))
    folder = store.export_all("ann", tmp_path / "ann")
    (file,) = (folder / "factors").iterdir()
    assert same(load_factors(file)[0], natural("ann", "hobby")), "readable without the store"
    with EditStore.open(tmp_path / "copy.db") as copy:
        for user in store.users():
            copy.put(user, [delta for some in store.parts(user).values() for delta in some])
            assert same(copy.deltas(user), store.deltas(user))
        assert copy.stats()["shared"] == 1 and copy.verify() == []
        copy.backup(tmp_path / "backup.db")
    with EditStore.open(tmp_path / "backup.db") as backup:
        backup.forget("ann")
        assert same(backup.deltas("ben"), store.deltas("ben")) and backup.verify() == []


def test_a_file_that_only_names_a_part_is_not_taken_for_a_whole_one():
    data = factors.factors_to_bytes(natural("a", "hobby"), fingerprint="f", names={0: "abc"})
    with pytest.raises(StoreError, match=r"(?s)not whole.*abc"):
        factors.factors_from_bytes(data)
    assert same(factors.factors_from_bytes(data, elsewhere=lambda name: gate("hobby"))[0], natural("a", "hobby"))


def life(url: str, user: str, seed: int, faults: list[str]) -> None:
    """Random changes of one user's edits of three kinds; after each, what the store has is what it should have."""
    rng, live = random.Random(seed), []
    with EditStore.open(url) as store:
        for number in range(12):
            what = rng.choices(("put", "undo", "forget", "compact"), (5, 1, 2, 1))[0]
            if what == "put":
                name, kind = f"{user}/{number}", str(rng.randrange(3))
                store.put(user, natural(name, kind))
                live.append(natural(name, kind))
            elif what == "undo" and live:
                store.undo(user)
                live.pop()
            elif what == "compact" and live:
                store.compact(user, 999)
                live = [list(store.deltas(user))]
            elif what == "forget":
                store.forget(user)
                live = []
            if not same(store.deltas(user), composed([delta for some in live for delta in some])):
                faults.append(f"{user} after {what}, number {number}")


def test_many_who_come_and_go_at_once_take_nothing_from_each_other(url):
    """On PostgreSQL, two who drop the last references, or one who adds one meanwhile, must see each other."""
    EditStore.open(url).close()
    faults: list[str] = []
    threads = [threading.Thread(target=life, args=(url, f"user {n}", n, faults)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with EditStore.open(url) as store:
        assert faults == [] and store.verify() == []
        for user in list(store.users()):
            store.forget(user)
        assert store.stats()["shared"] == 0


@pytest.mark.parametrize("first", ["drops", "keeps"])
@pytest.mark.parametrize("second", ["drops", "keeps"])
def test_two_at_once_wait_for_each_other(url, first, second):
    """Of two who drop the last two references one removes the gate; who adds one meanwhile finds it, or brings it."""
    with EditStore.open(url) as store, EditStore.open(url) as other:
        numbers = {
            user: store.put(user, natural(user, "hobby")) for user in ("ann", "ben")[: 2 if first == "drops" else 1]
        }
        if (first, second) == ("drops", "keeps"):
            other.forget("ben")
        works = {
            "drops": lambda: other.forget("ben" if first == "drops" else "ann"),
            "keeps": lambda: other.put("cleo", natural("cleo", "hobby")),
        }
        with store._database.writing() as connection:
            if first == "drops":
                store._shared.drop(connection, [numbers["ann"]])
            else:
                store._shared.keep(connection, 99, store._shared.packed(natural("dora", "hobby"))[1])
            late = threading.Thread(target=works[second])
            late.start()
            late.join(0.3)
            assert late.is_alive() or (first, second) == ("keeps", "keeps")
        late.join()
        with store._database.reading() as connection:
            left = connection.exec_driver_sql("SELECT count(*) FROM shared_references").scalar_one()
        assert left == {"dropsdrops": 0, "keepskeeps": 3}.get(first + second, 1)
        assert store.stats()["shared"] == min(left, 1)
        if second == "keeps":
            assert same(store.deltas("cleo"), composed(natural("cleo", "hobby")))


def test_whoever_reads_while_another_is_forgotten_reads_all_of_it(url):
    with EditStore.open(url) as store, EditStore.open(url) as other:
        store.put("ben", natural("b", "hobby"))
        bens, anns = composed(natural("b", "hobby")), composed(natural("a", "hobby", "pet"))
        stop, faults, seen = threading.Event(), [], set()

        def read() -> None:
            while not stop.is_set():
                found = other.deltas("ann")
                seen.add(bool(found))
                if not same(other.deltas("ben"), bens) or (found and not same(found, anns)):
                    faults.append(found)

        reader = threading.Thread(target=read)
        reader.start()
        while len(seen) < 2:
            store.put("ann", natural("a", "hobby", "pet"))
            store.forget("ann")
        stop.set()
        reader.join()
        assert faults == [] and store.verify() == []
