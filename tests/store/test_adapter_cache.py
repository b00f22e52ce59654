"""Adapters by name: one name for one revision, nobody's file under another's name, and nothing of who is gone."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from easyedit_personal.store import EditStore, adapter_cache
from easyedit_personal.store.adapter_cache import AdapterCache, NoAdapter, adapter_name, parse_name
from tests.store.samples import preference
from tests.store.test_lora import HOSTILE, assert_same_model, random_delta
from tests.tiny import tiny_model

SERVABLE = [user for user in HOSTILE if user and user != "\ud800" and "\0" not in user and len(user) < 1024]


@pytest.fixture
def cache(store, tmp_path):
    """An empty cache over the store."""
    return AdapterCache(store, tmp_path / "adapters")


def folders(cache: AdapterCache) -> set[str]:
    return {path.name for path in cache._folder.iterdir()}


def put(store: EditStore, user: str, seed: int = 0, model=None) -> int:
    return store.put(user, [random_delta(model or tiny_model("llama"), 2, seed=seed)], preference=preference(user))


def test_the_adapter_is_the_user_s_model(store, cache, llama):
    for seed in (0, 1):
        put(store, "alice", seed, llama)
    found = cache.find("alice")
    assert found.name == f"alice@{store.version('alice')}" and found.revision == store.version("alice")
    assert_same_model(llama, store.deltas("alice"), found.folder)
    assert cache.find("alice", found.revision) == found


def test_every_change_is_another_name_and_the_old_file_goes(store, cache):
    first = put(store, "alice")
    one = cache.find("alice")
    put(store, "alice", 1)
    two = cache.find("alice")
    store.undo("alice")
    three = cache.find("alice")
    assert len({one.name, two.name, three.name}) == 3 and folders(cache) == {three.folder.name}
    assert one.revision == first
    for old in (one, two):
        with pytest.raises(NoAdapter, match="no such revision"):
            cache.find("alice", old.revision)
    assert folders(cache) == {three.folder.name}


def test_the_unknown_and_the_forgotten_are_refused_and_their_files_removed(store, cache):
    put(store, "alice")
    name = cache.find("alice").name
    store.forget("alice")
    for revision in (None, int(name.split("@")[1])):
        with pytest.raises(NoAdapter):
            cache.find("alice", revision)
    with pytest.raises(NoAdapter):
        cache.find("nobody")
    assert folders(cache) == set() and cache.route(name) == cache.route("base@alice") == "base@alice"


def test_a_user_with_nothing_live_is_served_by_the_base_model(store, cache):
    put(store, "alice")
    cache.find("alice")
    store.undo("alice")
    assert cache.find("alice") is None and cache.route("base@alice") == "base" and folders(cache) == set()


def test_routes(store, cache):
    put(store, "alice")
    put(store, "17")
    put(store, "bob@example.com")
    now = cache.find("alice").name
    assert cache.route("base@alice") == cache.route(now) == now
    assert cache.route("alice@999999") == "base@alice"
    assert cache.route("base@17") == adapter_name("17", store.version("17"))
    assert cache.route("base@bob@example.com") == f"bob%40example.com@{store.version('bob@example.com')}"
    for other in ("my-org/my-model", "base", "alice", "bob@example.com", "alice@", "alice@017", "alice@1x"):
        assert cache.route(other) == other
    assert cache.route("@17") == cache.route("base@") == "base@"  # an id is not empty


def test_hostile_ids_get_files_of_their_own_inside_the_folder(store, cache, tmp_path):
    users = [*SERVABLE, "alice", "ALICE", "\uff41lice", "base", "base@alice", "alice@17", "x" * 1024]
    for seed, user in enumerate(users):
        put(store, user, seed)
    found = {user: cache.find(user) for user in users}
    assert len({one.folder for one in found.values()}) == len({one.name for one in found.values()}) == len(users)
    assert all(re.fullmatch(r"[0-9a-f]{32}@\d+", name) for name in folders(cache))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"adapters"}
    model = tiny_model("llama")
    for user in users[::5]:
        assert_same_model(model, store.deltas(user), found[user].folder)
    for user, one in found.items():
        assert parse_name(one.name) == (user, one.revision) and cache.route(f"base@{user}") == one.name
        assert cache.find(*parse_name(one.name)) == one


@pytest.mark.parametrize("user", ["", "\ud800", "zero\0", "x" * 1025, "x" * 100_000, "é" * 600])
def test_ids_that_nobody_has_are_refused(cache, user):
    with pytest.raises(NoAdapter):
        cache.find(user)
    assert folders(cache) == set()


@pytest.mark.parametrize(
    "name", ["%2e%2e@1", "al%69ce@1", "alice%@1", "%ff@1", "\uff21@1", "a/b@1", "alice@\u0661", "%62ase@01", "alice@0"]
)
def test_a_name_that_is_spelt_otherwise_is_nobody_s(name):
    assert parse_name(name) is None


@given(st.text(min_size=1), st.text(min_size=1), st.integers(1, 2**63 - 1))
def test_no_two_users_share_a_name(one, other, revision):
    def usable(text):
        return text.encode("utf-8", "ignore").decode()

    one, other = usable(one), usable(other)
    assert parse_name(adapter_name(one, revision)) == (one, revision)
    assert parse_name(f"base@{one}") == (one, None)
    assert (adapter_name(one, revision) == adapter_name(other, revision)) == (one == other)


def test_the_folder_is_bounded_and_what_was_asked_for_last_stays(store, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_cache, "IN_USE_SECONDS", -1.0)
    cache = AdapterCache(store, tmp_path / "adapters", max_adapters=3)
    for number in range(3):
        put(store, f"user {number}", number)
        folder = cache.find(f"user {number}").folder
        os.utime(folder, (time.time() - 100 + number,) * 2)
    cache.find("user 0")
    put(store, "user 3")
    cache.find("user 3")
    kept = {store.tag(f"user {number}") for number in (0, 2, 3)}
    assert {name.split("@")[0] for name in folders(cache)} == kept
    assert cache.find("user 1").folder.is_dir()  # exported again


def test_what_a_server_may_be_loading_is_not_removed(store, tmp_path):
    cache = AdapterCache(store, tmp_path / "adapters", max_adapters=1)
    for number in range(3):
        put(store, f"user {number}", number)
    found = [cache.find(f"user {number}").folder for number in range(3)]  # all are made before the first is looked at
    assert all(folder.is_dir() for folder in found)


def test_sweeps_remove_those_who_were_forgotten_elsewhere(store, tmp_path):
    now = [0.0]
    cache = AdapterCache(store, tmp_path / "adapters", clock=lambda: now[0])
    for number in range(3):
        put(store, f"user {number}", number)
        cache.find(f"user {number}")
    store.forget("user 0")
    put(store, "user 1", 5)
    (tmp_path / "adapters" / "notes").mkdir()
    part = tmp_path / "adapters" / ".part-killed"
    part.mkdir()
    os.utime(part, (1, 1))
    cache.find("user 2")
    assert len(folders(cache)) == 5
    now[0] += adapter_cache.SWEEP_SECONDS
    cache.find("user 2")
    assert folders(cache) == {cache.find("user 2").folder.name, "notes"}


def test_an_edit_during_an_export_is_not_exported_under_the_old_name(store, cache, llama, monkeypatch):
    put(store, "alice", 0, llama)
    deltas, late = store.deltas, []

    def slow(user):
        if not late:
            late.append(put(store, "alice", 1, llama))
        return deltas(user)

    exported, export = [], adapter_cache.export_lora
    monkeypatch.setattr(store, "deltas", slow)
    monkeypatch.setattr(adapter_cache, "export_lora", lambda *a, **k: exported.append(a[1].name) or export(*a, **k))
    found = cache.find("alice")
    assert exported == [f"{store.tag('alice')}@{late[0]}"]
    assert found.revision == late[0] == store.version("alice")
    assert_same_model(llama, deltas("alice"), found.folder)


def test_many_threads_and_two_caches_over_one_folder(store, cache, tmp_path):
    other = AdapterCache(store, tmp_path / "adapters")
    put(store, "alice")
    found, start = [], threading.Barrier(6)

    def ask(which):
        start.wait()
        found.append(which.find("alice"))

    threads = [threading.Thread(target=ask, args=(which,)) for which in (cache, other) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1 and folders(cache) == {found[0].folder.name}
    PeftModel.from_pretrained(tiny_model("llama"), found[0].folder)


def test_the_folder_names_nobody_and_is_closed_to_others(store, cache):
    put(store, "anastasia-1")
    folder = cache.find("anastasia-1").folder
    assert cache._folder.stat().st_mode & 0o077 == 0
    assert not any(b"anastasia" in file.read_bytes() for file in folder.iterdir())
    assert "anastasia" not in str(folder.relative_to(cache._folder)) and isinstance(folder, Path)
