"""Killed, and many at once: what was acknowledged is there, whole, and nothing else.

Children come from a fork server that has imported torch before; they tell what they do over a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore
from easyedit_personal.store.encryption import Encryption
from easyedit_personal.store.entries import NewEdit
from tests.store.samples import edit, gate, joined, preference, same

Live = dict[int, str]  # edit id -> name of its factors


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.test_crash"])
    yield context


def act(store: EditStore, user: str, name: str, what: str) -> Any:
    """One operation; its result tells what it did."""
    if what == "put":
        return store.put(user, made(name), preference=preference(name), key=name)
    if what == "undo":
        return [edit.id for edit in store.undo(user)]
    if what == "supersede":
        live = [one.id for one in store.history(user) if one.live]
        since = live[-1] if live else 1
        return since, store.supersede(user, store.version(user), since, pair(name))
    return store.forget(user)


def made(name: str) -> list[Any]:
    """An edit's factors: its own, and a gate that it shares with every third of all others."""
    return [gate(str(zlib.crc32(name.encode()) % 3)), *edit(name, rank=8)]


def pair(name: str) -> list[NewEdit]:
    """What a supersede puts in the place of the last edit."""
    return [NewEdit(made(f"{name}{half}"), preference=preference(name)) for half in "ab"]


def after(live: Live, name: str, what: str, result: Any) -> Live:
    """A user's live edits once the operation is done."""
    if what == "put":
        return {**live, result: name}
    if what == "undo":
        return {number: name for number, name in live.items() if number not in result}
    if what == "supersede":
        since, new = result
        kept = {number: known for number, known in live.items() if number < since}
        return {**kept, **{number: f"{name}{half}" for number, half in zip(new, "ab", strict=True)}}
    return {}


def write_until_killed(url: str, user: str, seed: int, pipe: Any, encryption: Encryption | None) -> None:
    """Random operations, each announced before and acknowledged after."""
    rng = random.Random(seed)
    store = EditStore.open(url, encryption=encryption)
    pipe.send(("ready", None, None))
    for number in range(10_000):
        name, what = f"{user}/{number}", rng.choices(("put", "undo", "supersede", "forget"), (5, 2, 3, 1))[0]
        pipe.send(("begin", name, what))
        pipe.send(("done", act(store, user, name, what), None))


def told(pipe: Any) -> Iterator[tuple[str, Any, Any]]:
    """What a child managed to say before it was killed; a message cut in two was not said."""
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def replay(messages: list[tuple[str, Any, Any]]) -> tuple[Live, tuple[str, str] | None]:
    """The acknowledged state, and the operation that was under way."""
    live: Live = {}
    pending = None
    for kind, first, second in messages:
        if kind == "begin":
            pending = (first, second)
        elif kind == "done" and pending:
            live, pending = after(live, *pending, first), None
    return live, pending


def could_be(store: EditStore, user: str, live: Live, pending: tuple[str, str] | None) -> bool:
    """Whether the store holds the acknowledged state, or that with the last operation done whole."""
    found = {edit.id for edit in store.history(user) if edit.live}
    allowed = [live]
    if pending is not None and pending[1] == "put":
        new = found - live.keys()
        allowed += [after(live, *pending, max(new))] if new else []
    elif pending is not None and pending[1] == "supersede":
        new = sorted(found - live.keys())
        allowed += [after(live, *pending, (max(live, default=1), new))] if len(new) == 2 else []
    elif pending is not None:
        allowed.append(after(live, *pending, [max(live)] if live else []))
    return any(found == state.keys() and same(store.deltas(user), wide(state)) for state in allowed)


def wide(state: Live) -> list[Any]:
    """What a store answers for these edits."""
    from easyedit_personal.store.compact import composed

    return composed([delta for number in sorted(state) for delta in made(state[number])])


@pytest.mark.parametrize("kills", [8, pytest.param(220, marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_nothing_is_half_there(url, processes, kills):
    rng, under_way, acknowledged = random.Random(kills), 0, 0
    store, key = EditStore.open(url), Encryption.from_environment()  # the fork server has an environment of its own
    for turn in range(kills):
        user = f"user {turn}"
        ours, theirs = processes.Pipe(duplex=False)
        child = processes.Process(target=write_until_killed, args=(url, user, turn, theirs, key))
        child.start()
        theirs.close()
        # So many messages first, however slow the machine is, and then at any moment.
        heard = [ours.recv() for _ in range(1 + rng.randrange(24))]
        time.sleep(rng.uniform(0.0, 0.01))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        live, pending = replay([*heard, *told(ours)])
        under_way, acknowledged = under_way + (pending is not None), acknowledged + len(live)
        assert could_be(store, user, live, pending), f"turn {turn}: {live} and {pending} under way"
        if turn % 2:  # every other time, the next one finds the log as the killed one left it
            store.close()
            store = EditStore.open(url)
    assert store.verify() == [] and acknowledged > kills / 2 and under_way
    store.close()


def write_some(url: str, name: str, count: int, pipe: Any, encryption: Encryption | None) -> None:
    """Own puts and undos, and puts for a user whom all share, under keys that all use."""
    with EditStore.open(url, encryption=encryption) as store:
        own = [store.put(name, edit(f"{name}/{number}")) for number in range(count)]
        store.undo(name, own[0])
        pipe.send(
            (name, own, [store.put("shared", edit(f"shared/{number}"), key=str(number)) for number in range(count)])
        )


@pytest.mark.parametrize("count", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_eight_processes_at_once(url, processes, count):
    """Nobody opened the store before: also its making is a race."""
    pipes, children = [], []
    for number in range(8):
        ours, theirs = processes.Pipe(duplex=False)
        arguments = (url, f"writer {number}", count, theirs, Encryption.from_environment())
        children.append(processes.Process(target=write_some, args=arguments))
        children[-1].start()
        theirs.close()
        pipes.append(ours)
    reports = [pipe.recv() for pipe in pipes]
    for child in children:
        child.join()
        assert child.exitcode == 0
    with EditStore.open(url) as store:
        assert len({tuple(shared) for _, _, shared in reports}) == 1, "one key, one edit, whoever comes first"
        assert len({number for _, own, _ in reports for number in own}) == 8 * count
        for name, own, shared in reports:
            assert [edit.id for edit in store.history(name)] == sorted(own) == own
            assert same(store.deltas(name), joined(*(f"{name}/{number}" for number in range(1, count))))
            assert len(store.history("shared")) == len(set(shared)) == count
        assert store.verify() == [] and len(list(store.users())) == 9


def test_a_writer_who_stops_dead_keeps_nobody_waiting(tmp_path, processes):
    """The lock is the kernel's: it goes with its holder."""
    path = str(tmp_path / "edits.db")
    EditStore.open(path).close()
    ours, theirs = processes.Pipe(duplex=False)
    child = processes.Process(target=hold, args=(path, theirs))
    child.start()
    ours.recv()
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with EditStore.open(path) as store:
        assert store.history("ann") == []
        assert store.put("ann", edit("a")) > 0


def hold(path: str, pipe: Any) -> None:
    """Begin a transaction and never end it."""
    store = EditStore.open(path)
    with store._database.writing() as connection:
        connection.exec_driver_sql("UPDATE clock SET tick = tick + 1")
        pipe.send("inside")
        time.sleep(60)


def test_a_put_that_fails_half_way_leaves_nothing(store, monkeypatch):
    store.put("ann", edit("a"))
    version = store.version("ann")

    def fails(*_: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr("easyedit_personal.store.entries.add_edit", fails)
    with pytest.raises(StoreError, match="is gone"):
        store.put("ann", edit("b"))
    with pytest.raises(StoreError, match="is gone"):
        store.supersede("ann", version, 1, pair("b"))
    assert store.version("ann") == version and same(store.deltas("ann"), edit("a")) and store.verify() == []
