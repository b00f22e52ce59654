"""Stores of other releases: older ones are brought up to date, newer ones are left alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore, schema
from easyedit_personal.store.compact import composed
from tests.store.samples import edit, joined, natural, preference, same


def change(path: Path, *statements: str) -> None:
    """Write into a closed store behind its back."""
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def to_schema_1(path: Path) -> None:
    """What schema 1 looked like: edits and users alone."""
    tables = ("merges", "user_keys", "job_texts", "jobs", "shared_references", "shared_factors")
    change(path, *(f"DROP TABLE {name}" for name in tables), "UPDATE meta SET value = '1' WHERE name = 'schema'")


def test_an_older_store_is_brought_up_to_date(sqlite_path):
    to_schema_1(sqlite_path)
    with EditStore.open(sqlite_path) as store:
        assert store.stats()["schema"] == str(schema.SCHEMA)
        assert same(store.deltas("ann"), joined("ann1", "ann2"))
        store.put("ann", edit("x"), preference=preference("x"))
        assert len(store.compact("ann", 5).merged) == 3 and store.verify() == []


def test_edits_of_before_there_were_shared_factors_stay_as_they_are(sqlite_path):
    change(
        sqlite_path,
        "DROP TABLE shared_references",
        "DROP TABLE shared_factors",
        "UPDATE meta SET value = '4' WHERE name = 'schema'",
    )
    with EditStore.open(sqlite_path) as store:
        assert store.verify() == [] and store.stats()["shared"] == 0
        store.put("ann", natural("x", "hobby"))
        assert same(store.deltas("ann"), composed([*joined("ann1", "ann2"), *natural("x", "hobby")]))
        assert store.stats()["shared"] == 1 and store.verify() == []
    with EditStore.open(sqlite_path) as store:
        assert store.stats()["schema"] == str(schema.SCHEMA)


def test_a_migration_that_fails_leaves_the_old_store(sqlite_path, monkeypatch):
    to_schema_1(sqlite_path)

    def fails(connection):
        schema.merges.create(connection)
        raise StoreError("no room")

    monkeypatch.setitem(schema.MIGRATIONS, 1, fails)
    with pytest.raises(StoreError, match="no room"):
        EditStore.open(sqlite_path)
    connection = sqlite3.connect(sqlite_path)
    assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == ("1",)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'merges'").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize(
    ("table", "column"),
    [("edits", "owner"), ("merges", "target"), ("edits", "token"), ("shared_references", "digest")],
)
def test_what_is_looked_up_often_is_looked_up_in_an_index(sqlite_path, table, column):
    connection = sqlite3.connect(sqlite_path)
    plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE {column} = x'00'").fetchall()
    connection.close()
    assert plan and all("SEARCH" in row[3] and "INDEX" in row[3] for row in plan)


def test_every_older_schema_has_its_migration():
    assert set(schema.MIGRATIONS) == set(range(1, schema.SCHEMA))


def test_a_newer_store_is_refused_and_not_touched(sqlite_path):
    change(sqlite_path, "UPDATE meta SET value = '999' WHERE name = 'schema'")
    before = sqlite_path.read_bytes()
    with pytest.raises(StoreError, match=rf"(?s)newer release.*999.*{schema.SCHEMA} or older.*upgrade"):
        EditStore.open(sqlite_path)
    assert sqlite_path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = 'x' WHERE name = 'schema'",
        "UPDATE meta SET value = '0' WHERE name = 'schema'",
        "DELETE FROM meta WHERE name = 'schema'",
        "UPDATE meta SET value = 'a' || substr(value, 2) || 'b' WHERE name = 'salt'",
        "DELETE FROM meta WHERE name = 'salt'",
    ],
)
def test_a_store_that_does_not_know_itself_is_refused(sqlite_path, statement):
    change(sqlite_path, statement)
    with pytest.raises(StoreError, match=r"(?s)knows of itself is damaged.*backup"):
        EditStore.open(sqlite_path)


def test_a_newer_store_in_postgresql_is_refused(postgres):
    import psycopg

    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE newer")
    EditStore.open(postgres.format("newer")).close()
    with psycopg.connect(postgres.format("newer"), autocommit=True) as connection:
        connection.execute("UPDATE meta SET value = '999' WHERE name = 'schema'")
    with pytest.raises(StoreError, match="newer release"):
        EditStore.open(postgres.format("newer"))


test_a_newer_store_in_postgresql_is_refused = pytest.mark.server(test_a_newer_store_in_postgresql_is_refused)


def test_verify_names_what_was_changed_behind_the_store_s_back(sqlite_path):
    change(
        sqlite_path,
        "UPDATE edits SET live = 0 WHERE id = 1",
        "UPDATE edits SET user = 'mallory' WHERE id = 3",
        "UPDATE edits SET factors = x'00' WHERE id = 4",
        "DELETE FROM users WHERE owner = (SELECT owner FROM edits WHERE id = 5)",
        "DELETE FROM edits WHERE id = 6",
    )
    with EditStore.open(sqlite_path) as store:
        found = {(fault.edit, fault.user) for fault in store.verify()}
    assert found == {(1, "ann"), (3, "mallory"), (4, "ben"), (5, "cleo")}


def test_verify_goes_on_behind_rows_that_cannot_be_read(sqlite_path):
    change(
        sqlite_path,
        "UPDATE edits SET user = CAST(x'ff' AS TEXT) WHERE id IN (2, 3)",
        "UPDATE edits SET factors = x'00' WHERE id = 5",
        "INSERT INTO users VALUES (x'aa', 9)",
    )
    with EditStore.open(sqlite_path) as store:
        faults = store.verify()
    assert [fault.edit for fault in faults if "decode" in fault.what] == [2, 3]
    assert [fault.user for fault in faults if fault.edit == 5] == ["cleo"]
    assert "1 users have no edits" in [fault.what for fault in faults]


def test_verify_says_so_where_a_table_is_gone(sqlite_path):
    with EditStore.open(sqlite_path) as store:
        change(sqlite_path, "DROP TABLE users")
        assert ["no such table: users" in fault.what for fault in store.verify()] == [True]


@pytest.mark.parametrize(
    "column",
    [f"edits.{column.name}" for column in schema.edits.c if column.name not in ("token", "settings")]
    + ["clock.tick", "meta.value", "users.changed", "users.owner", "settings.content", "merges.target"],
)
def test_the_database_itself_keeps_every_value_there(sqlite_path, column):
    table, name = column.split(".")
    if table == "merges":
        change(sqlite_path, "INSERT INTO merges VALUES (1, 2)")
    if table == "settings":
        change(sqlite_path, "INSERT INTO settings VALUES (x'01', '{}')")
    with pytest.raises(sqlite3.IntegrityError, match=r"NOT NULL|mismatch"):
        change(sqlite_path, f"UPDATE {table} SET {name} = NULL")


def test_the_database_itself_keeps_a_key_from_being_used_twice(sqlite_path):
    with pytest.raises(sqlite3.IntegrityError, match="token"):
        change(sqlite_path, "UPDATE edits SET token = x'01'")


def test_an_edit_is_merged_once(sqlite_path):
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        change(sqlite_path, "INSERT INTO merges VALUES (1, 2)", "INSERT INTO merges VALUES (1, 3)")


def test_an_undone_edit_cannot_be_revived_behind_the_store_s_back(sqlite_path):
    with EditStore.open(sqlite_path) as store:
        store.undo("ann")
        assert store.verify() == []
    change(sqlite_path, "UPDATE edits SET live = 1")
    with EditStore.open(sqlite_path) as store, pytest.raises(StoreError, match="damaged"):
        store.deltas("ann")
