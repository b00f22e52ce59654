"""What many machines need of a store: several preferences in one edit, keys that can be asked for, patience."""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager

import pytest

from easyedit_personal.errors import StoreConflict, StoreError, StoreUnavailable
from easyedit_personal.store import EditStore, retry
from easyedit_personal.store.entries import NewEdit
from easyedit_personal.store.retry import again, patiently
from tests.store.samples import edit, joined, preference, same
from tests.waiting import wait_until


def test_an_edit_made_from_several_preferences(store):
    said = (preference("a", user="ann"), preference("b", user="ben"))
    store.put("ann", edit("a"), preference=said, health={"norm": 1.0})
    store.put("ann", edit("b"), preference=[said[1]])
    first, second = store.history("ann")
    assert first.preferences == said and first.preference == said[0] and first.health == {"norm": 1.0}
    assert second.preferences == said[1:] and store.preferences("ann") == [*said, said[1]]
    store.compact("ann", 8)
    assert store.preferences("ann") == [*said, said[1]] and store.verify() == []
    store.undo("ann")
    assert store.preferences("ann") == []
    with pytest.raises(StoreError, match="cannot be kept"):
        store.put("ann", edit("a"), preference=["hobby"])


def test_keys_can_be_asked_for(store):
    first = store.put("ann", edit("a"), key="k")
    store.put("ben", edit("a"), key="other")
    wanted = {"ann": "k", "ben": "k", "cleo": "k"}
    assert store.find(wanted) == {"ann": first} and store.find({}) == {}
    store.undo("ann")
    assert store.find(wanted) == {"ann": first}
    store.forget("ann")
    assert store.find(wanted) == {}


def failing(error: Exception, times: int):
    """A call that works after so many failures, and how often it was called."""
    calls = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "worked"

    return call, calls


def test_conflicts_are_repeated_and_nothing_else(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)
    call, calls = failing(StoreConflict("collided"), 5)
    assert again(call)() == "worked" and len(calls) == 6
    call, calls = failing(StoreConflict("collided"), 99)
    with pytest.raises(StoreConflict):
        again(call)()
    assert len(calls) == retry.TRIES
    for error in (StoreUnavailable("gone"), StoreError("bad"), ValueError("bad")):
        call, calls = failing(error, 1)
        with pytest.raises(type(error)):
            again(call)()
        assert len(calls) == 1


@pytest.mark.parametrize(
    "operation",
    [
        lambda store: store.put("ann", edit("c")),
        lambda store: store.supersede("ann", store.version("ann"), store.history("ann")[0].id, [NewEdit(edit("c"))]),
        lambda store: store.undo("ann"),
        lambda store: store.forget("ann"),
        lambda store: store.compact("ann", 5),
    ],
    ids=["put", "supersede", "undo", "forget", "compact"],
)
def test_whatever_writes_is_done_again_after_a_conflict(store, monkeypatch, operation):
    for name in "ab":
        store.put("ann", edit(name))
    real, collisions = store._database.writing, [1, 1]

    @contextmanager
    def writing():
        if collisions:
            collisions.pop()
            raise StoreConflict("collided")
        with real() as connection:
            yield connection

    monkeypatch.setattr(store._database, "writing", writing)
    operation(store)
    assert not collisions and store.verify() == []


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.01)
    call, calls = failing(StoreUnavailable("gone"), 3)
    assert patiently(call, 30.0) == "worked" and len(calls) == 4
    call, calls = failing(StoreUnavailable("gone"), 10**9)
    with pytest.raises(StoreUnavailable):
        patiently(call, 0.05)
    call, calls = failing(StoreError("bad"), 1)
    with pytest.raises(StoreError):
        patiently(call, 30.0)
    assert len(calls) == 1


def test_a_store_that_is_held_by_somebody_is_away_and_a_damaged_one_is_not(tmp_path):
    import sqlite3

    path = tmp_path / "edits.db"
    with EditStore.open(path) as store:
        store.put("ann", edit("a"))
    path.write_bytes(path.read_bytes()[:700] + b"\0" * 3000)
    with pytest.raises(StoreError) as caught, EditStore.open(path) as store:
        store.deltas("ann")
    assert not isinstance(caught.value, StoreUnavailable)
    from easyedit_personal.store.database import explained

    assert isinstance(explained(sqlite3.OperationalError("database is locked"), "x"), StoreUnavailable)


def put_shared(url: str, name: str, count: int) -> None:
    """Own edits and such for a user whom all share."""
    with EditStore.open(url) as store:
        for number in range(count):
            store.put("shared", edit(f"{name}/{number}"))
            store.put("shared", edit("same"), key=f"same {number}")
            store.undo("shared", store.put("shared", edit("gone")))


@pytest.mark.server
@pytest.mark.slow
def test_writers_under_serialisable_transactions(request):
    """Where the server was set up that way, half of these transactions fail at first."""
    import psycopg

    pattern = request.getfixturevalue("postgres")
    with psycopg.connect(pattern.format("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE strict")
        connection.execute("ALTER DATABASE strict SET default_transaction_isolation = 'serializable'")
    url, context = pattern.format("strict"), multiprocessing.get_context("spawn")
    EditStore.open(url).close()
    children = [context.Process(target=put_shared, args=(url, f"writer {n}", 15)) for n in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    with EditStore.open(url) as store:
        history = store.history("shared")
        assert sum(one.live for one in history) == 4 * 15 + 15 and len(history) == 4 * 15 * 2 + 15
        assert store.verify() == []


@pytest.mark.server
def test_connections_that_the_server_closed_are_replaced(request):
    import psycopg

    pattern = request.getfixturevalue("postgres")
    with psycopg.connect(pattern.format("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE pooled")
        with EditStore.open(pattern.format("pooled")) as store:
            store.put("ann", edit("a"))
            others = "FROM pg_stat_activity WHERE datname = 'pooled'"
            connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
            wait_until(lambda: not connection.execute(f"SELECT pid {others}").fetchall(), "it is still connected")
            store.put("ann", edit("b"))
            assert same(store.deltas("ann"), joined("a", "b"))
