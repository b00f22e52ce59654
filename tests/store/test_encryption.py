"""An encrypted store: nothing of a user in clear anywhere, the right key or nothing, and keys that can be changed."""

from __future__ import annotations

import base64
import builtins
import dataclasses
import sqlite3
from pathlib import Path

import fsspec
import pytest

from easyedit_personal.errors import MissingDependencyError, StoreConflict, StoreError
from easyedit_personal.store import EditStore, queries
from easyedit_personal.store.encryption import ENV, WRAPPED_BYTES, Encryption
from tests.store.conftest import KEY
from tests.store.samples import edit, joined, preference, same
from tests.store.test_forget import needles, put

pytest.importorskip("cryptography", reason="cryptography is not installed (extra `encryption`)")

OTHER = base64.b64encode(bytes(range(1, 33))).decode()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """A key in the environment."""
    monkeypatch.setenv(ENV, KEY)


@pytest.fixture
def path(tmp_path) -> Path:
    """A closed encrypted store of one user with two edits."""
    with EditStore.open(tmp_path / "edits.db") as store:
        for number in (0, 1):
            put(store, "anastasia-1", number)
    return tmp_path / "edits.db"


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


@pytest.mark.parametrize("factors", [None, "factors"])
def test_nothing_of_a_user_lies_there_in_clear(tmp_path, factors):
    with EditStore.open(tmp_path / "edits.db", factors=factors and str(tmp_path / factors)) as store:
        for number in (0, 1, 2):
            put(store, "anastasia-1", number)
        store.compact("anastasia-1", 4)
        put(store, "anastasia-1", 3)
        assert store.verify() == [] and list(store.users()) == ["anastasia-1"]
        everything = bytes_of(tmp_path)
    for number in range(4):
        assert [needle for needle in needles("anastasia-1", number) if needle in everything] == []
    assert base64.b64decode(KEY) not in everything and KEY.encode() not in everything


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"(?s)encrypted, and no key was given.*the key with the id [0-9a-f]{16} in " + ENV),
        ("", "no key was given"),
        (OTHER, r"(?s)another key.*got: .*[0-9a-f]{16}.*needed: the key [0-9a-f]{16}.*NEW,OLD"),
        (KEY[:-4], rf"(?s){ENV} holds no key.*32 bytes in base64.*openssl rand"),
        ("my secret password", "holds no key"),
        (f"{OTHER},short", "holds no key"),
    ],
)
def test_without_the_right_key_nothing_is_read_or_written(path, monkeypatch, value, message):
    before = bytes_of(path.parent)
    monkeypatch.delenv(ENV) if value is None else monkeypatch.setenv(ENV, value)
    with pytest.raises(StoreError, match=message) as error:
        EditStore.open(path)
    assert bytes_of(path.parent) == before
    assert value not in (OTHER, KEY[:-4]) or value not in str(error.value)


def test_a_bad_key_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv(ENV, "x")
    with pytest.raises(StoreError, match="holds no key"):
        EditStore.open(tmp_path / "edits.db")
    assert list(tmp_path.iterdir()) == []


def test_an_older_store_is_not_migrated_under_a_key_that_is_not_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv(ENV)
    with EditStore.open(tmp_path / "edits.db") as store:
        store.put("ann", edit("a"))
    with sqlite3.connect(tmp_path / "edits.db") as connection:
        for table in ("user_keys", "job_texts", "jobs", "shared_references", "shared_factors"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
    connection.close()
    monkeypatch.setenv(ENV, KEY)
    with pytest.raises(StoreError, match=r"(?s)is not encrypted, and a key was given.*unset"):
        EditStore.open(tmp_path / "edits.db")
    with sqlite3.connect(tmp_path / "edits.db") as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == ("2",)
    connection.close()
    monkeypatch.delenv(ENV)
    with EditStore.open(tmp_path / "edits.db") as store:
        assert same(store.deltas("ann"), edit("a")) and store.verify() == []


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    imported = builtins.__import__

    def absent(name, *rest):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependencyError, match=r"easyedit-personal\[encryption\]"):
        EditStore.open(tmp_path / "edits.db")
    assert list(tmp_path.iterdir()) == []


def test_what_is_damaged_or_swapped_is_refused(path):
    with EditStore.open(path) as store:
        put(store, "benedict-22")
        swap = "UPDATE edits SET {0} = (SELECT {0} FROM edits e WHERE e.id = 3) WHERE id = 1"
        with sqlite3.connect(path) as connection:
            for column in ("record", "user", "factors"):
                connection.execute(swap.format(column))
        connection.close()
        assert {fault.edit for fault in store.verify()} == {1}
        with pytest.raises(StoreError, match="cannot be decrypted"):
            store.history("anastasia-1")
        with pytest.raises(StoreError, match="damaged"):
            store.deltas("anastasia-1")
        assert len(store.history("benedict-22")) == 1


def test_who_is_forgotten_cannot_be_read_from_copies(tmp_path):
    """A bucket keeps old versions of its objects: they are unreadable once the user's key is gone."""
    with EditStore.open(tmp_path / "edits.db", factors=str(tmp_path / "factors")) as store:
        put(store, "anastasia-1")
        owner = store._owner("anastasia-1")
        with store._database.reading() as connection:
            user_key = queries.find_user_key(connection, owner, store._encryption)
        [object_file] = [file for file in (tmp_path / "factors").rglob("*") if file.is_file()]
        kept = object_file.read_bytes()
        assert user_key.decrypt(kept, "factors")[8:9] == b"{"
        assert user_key.wrapped in bytes_of(tmp_path)
        store.forget("anastasia-1")
        assert user_key.wrapped not in bytes_of(tmp_path) and user_key.secret not in bytes_of(tmp_path)
        put(store, "anastasia-1")  # comes back, with another key
        with store._database.reading() as connection:
            new = queries.find_user_key(connection, owner, store._encryption)
        with pytest.raises(StoreError, match="cannot be decrypted"):
            new.decrypt(kept, "factors")
        store.forget("anastasia-1")
        store.vacuum()
        with store._database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM user_keys").scalar_one() == 0


def test_a_forgotten_key_does_not_come_back_with_a_put_that_was_under_way(path, monkeypatch):
    """Their old rows, wherever copies of them lie, would be readable again."""
    with EditStore.open(path) as store:
        owner, packed, done = store._owner("anastasia-1"), store._writer._packed, []
        old = store._writer._key(owner)

        def late(*arguments):
            entry = packed(*arguments)
            if not done:
                done.append(store.forget("anastasia-1"))
            return entry

        monkeypatch.setattr(store._writer, "_packed", late)
        put(store, "anastasia-1", 5)
        assert done == [2] and store._writer._key(owner).secret != old.secret and not store._writer._key(owner).is_new
        assert len(store.history("anastasia-1")) == 1 and store.verify() == []
    assert old.wrapped not in bytes_of(path.parent)


def test_what_is_encrypted_is_one_field_of_one_user():
    encryption = Encryption([base64.b64decode(KEY)])
    key = encryption.new_key(b"o" * 16, encryption.newest)
    data = key.encrypt(b"falconry", "record")
    assert key.decrypt(data, "record") == b"falconry" and key.encrypt(b"falconry", "record") != data
    for other, field in ((key, "user"), (dataclasses.replace(key, owner=b"p" * 16), "record")):
        with pytest.raises(StoreError, match="cannot be decrypted"):
            other.decrypt(data, field)
    assert encryption.user_key(b"o" * 16, key.wrapped).secret == key.secret
    with pytest.raises(StoreError, match="cannot be decrypted"):
        encryption.user_key(b"p" * 16, key.wrapped)
    assert len(key.wrapped) == WRAPPED_BYTES


def test_keys_of_the_forgotten_are_overwritten_where_they_lie(tmp_path):
    """Many users come and go, so that pages fill and are rebuilt."""
    wrapped, gone = {}, []
    with EditStore.open(tmp_path / "edits.db") as store:
        for number in range(120):
            put(store, f"user {number}", rank=1)
            with store._database.reading() as connection:
                key = queries.find_user_key(connection, store._owner(f"user {number}"), store._encryption)
            wrapped[f"user {number}"] = key.wrapped
            if number % 3 == 2:
                gone.append(f"user {number - 1}")
                store.forget(gone[-1])
        everything = bytes_of(tmp_path)
        assert [user for user in wrapped if wrapped[user] in everything and user in gone] == []
        assert all(key in everything for user, key in wrapped.items() if user not in gone) and len(gone) == 40


def test_a_key_is_rotated_and_the_old_one_may_go(path, monkeypatch):
    monkeypatch.setenv(ENV, f"{OTHER}, {KEY}")
    with EditStore.open(path) as store:
        assert store.stats()["encryption"] != Encryption.from_environment().newest
        assert store.rotate_key() == 1
        assert store.stats()["encryption"] == Encryption.from_environment().newest
        put(store, "benedict-22")
    monkeypatch.setenv(ENV, OTHER)
    with EditStore.open(path) as store:
        assert store.verify() == [] and len(store.history("anastasia-1")) == 2
        assert same(store.deltas("benedict-22"), edit("benedict-220", rank=2))
        put(store, "anastasia-1", 2)
    monkeypatch.setenv(ENV, KEY)
    with pytest.raises(StoreError, match="another key"):
        EditStore.open(path)


def test_a_rotation_that_lacks_a_key_changes_nothing(path, monkeypatch):
    with EditStore.open(path) as store:
        monkeypatch.setattr(store, "_encryption", Encryption([base64.b64decode(OTHER)]))
        with pytest.raises(StoreError, match="another key"):
            store.rotate_key()
    with EditStore.open(path) as store:
        assert store.verify() == []
    monkeypatch.delenv(ENV)
    with EditStore.open(path.parent / "clear.db") as store, pytest.raises(StoreError, match="no key to rotate"):
        store.rotate_key()


def test_a_rotation_between_packing_and_writing_is_noticed(path, monkeypatch):
    """The user is new, their key wrapped with the old one: it is made again."""
    monkeypatch.setenv(ENV, f"{OTHER},{KEY}")
    with EditStore.open(path) as store, EditStore.open(path) as other:
        keep, calls = queries.keep_user_key, []

        def late(connection, tick, key):
            calls.append(key.wrapped)
            return keep(connection, tick, key)

        packed = store._writer._packed
        monkeypatch.setattr("easyedit_personal.store.writer.keep_user_key", late)
        monkeypatch.setattr(
            store._writer, "_packed", lambda *a: (other.rotate_key() if not calls else None, packed(*a))[1]
        )
        put(store, "benedict-22")
        assert len(calls) == 2 and calls[0] != calls[1]
    monkeypatch.setenv(ENV, OTHER)
    with EditStore.open(path) as store:
        assert store.verify() == [] and same(store.deltas("benedict-22"), edit("benedict-220", rank=2))


def test_two_who_put_for_a_new_user_at_once_use_one_key(path):
    with EditStore.open(path) as store:
        owner = store._owner("benedict-22")
        mine = store._writer._key(owner)
        put(store, "benedict-22")
        with store._database.writing() as connection, pytest.raises(StoreConflict):
            queries.keep_user_key(connection, 99, mine)
        assert len(store._writer._key(owner).wrapped) == WRAPPED_BYTES and not store._writer._key(owner).is_new


def test_a_backup_needs_the_same_key(path, monkeypatch, tmp_path):
    with EditStore.open(path) as store:
        store.backup(tmp_path / "copy.db")
    with EditStore.open(tmp_path / "copy.db") as copy:
        assert same(copy.deltas("anastasia-1"), _both())
    monkeypatch.setenv(ENV, OTHER)
    with pytest.raises(StoreError, match="another key"):
        EditStore.open(tmp_path / "copy.db")


def _both():
    from easyedit_personal.store.compact import composed

    return composed([edit(f"anastasia-1{number}", rank=2)[0] for number in (0, 1)])


def test_url_safe_base64_is_taken_too(path, monkeypatch):
    key = base64.urlsafe_b64encode(bytes([251, 255] * 16)).decode()
    assert "_" in key
    monkeypatch.setenv(ENV, key)
    with EditStore.open(path.parent / "other.db") as store:
        store.put("ann", edit("a"))
    monkeypatch.setenv(ENV, base64.b64encode(bytes([251, 255] * 16)).decode())
    with EditStore.open(path.parent / "other.db") as store:
        assert same(store.deltas("ann"), edit("a"))


def test_the_store_s_digests_cannot_be_tried_without_the_key(path):
    """In clear, who reads the salt can look whether somebody is in the store."""
    with sqlite3.connect(path) as connection:
        [salt] = connection.execute("SELECT value FROM meta WHERE name = 'salt'").fetchone()
    connection.close()
    with EditStore.open(path) as store:
        assert store._salt not in base64.b64decode(salt) and store._salt.hex() not in salt


def test_moving_a_store_in_clear_as_the_document_says(tmp_path, monkeypatch):
    monkeypatch.delenv(ENV)
    old = EditStore.open(tmp_path / "old.db")
    for name in "ab":
        old.put("ann", edit(name), preference=preference(name))
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs" / "store-and-privacy.md").read_text(encoding="utf-8")
    *_, recipe = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    monkeypatch.chdir(tmp_path)
    old.close()
    exec(recipe, {"key": base64.b64decode(KEY), "model": None, "tokenizer": None})
    monkeypatch.setenv(ENV, KEY)
    with EditStore.open("new.db") as new:
        assert same(new.deltas("ann"), joined("a", "b")) and len(new.preferences("ann")) == 2


def test_a_whole_store_elsewhere_is_read_by_its_key_only(tmp_path):
    place = "memory://encrypted"
    with EditStore.open(tmp_path / "edits.db", factors=place) as store:
        store.put("ann", edit("a"))
        fs, root = fsspec.core.url_to_fs(place)
        data = b"".join(fs.cat_file(file) for file in fs.find(root))
        assert b"down_proj" not in data and same(store.deltas("ann"), edit("a"))
        fs.rm(root, recursive=True)
