"""The cache of users' factors: bounded in bytes, oldest out first, never older than the store."""

from __future__ import annotations

import threading

import pytest
import torch

from easyedit_personal.errors import ConfigError
from easyedit_personal.serving.factor_cache import ENTRY_BYTES, FactorCache
from easyedit_personal.types import WeightDelta
from tests.serving.test_personalized import Shelf, random_delta

RANK = 4
SIZE = ENTRY_BYTES + RANK * (32 + 48) * 4  # bytes of one user's entry on the tiny Llama


@pytest.fixture
def shelf(llama):
    return Shelf(llama, {f"user {i}": RANK for i in range(6)})


def test_hits_read_nothing(llama, shelf):
    cache = FactorCache(shelf, llama)
    first = cache.get("user 0")
    assert cache.get("user 0") is first
    assert (shelf.reads, cache.hits, cache.misses, cache.nbytes) == (1, 1, 1, SIZE)


def test_the_least_recently_used_goes_first(llama, shelf):
    cache = FactorCache(shelf, llama, max_bytes=3 * SIZE)
    for i in (0, 1, 2, 0, 3):
        cache.get(f"user {i}")
    assert [f"user {i}" in cache for i in range(4)] == [True, False, True, True]
    assert cache.nbytes == 3 * SIZE and len(cache) == 3


def test_what_is_too_large_is_used_and_not_kept(llama, shelf):
    cache = FactorCache(shelf, llama, max_bytes=SIZE - 1)
    assert cache.get("user 0") and len(cache) == 0 and cache.nbytes == 0
    with pytest.raises(ConfigError, match="negative"):
        FactorCache(shelf, llama, max_bytes=-1)


def test_a_new_version_replaces_the_old(llama, shelf):
    cache = FactorCache(shelf, llama)
    old = cache.get("user 0")
    shelf.put("user 0", random_delta(llama, RANK, seed=99))
    new = cache.get("user 0")
    (path,) = new
    assert new[path].rank == 2 * RANK and old[path].rank == RANK
    assert cache.nbytes == ENTRY_BYTES + 2 * (SIZE - ENTRY_BYTES) and len(cache) == 1


def test_users_without_edits_are_remembered_and_counted(llama, shelf):
    cache = FactorCache(shelf, llama, max_bytes=3 * ENTRY_BYTES)
    for number in range(10):
        assert cache.get(f"nobody {number}") == {}
    assert len(cache) == 3


def test_an_edit_during_the_read_is_not_kept_under_the_old_number(llama, shelf):
    read = shelf.deltas

    def slow(user):
        found = read(user)
        shelf.put(user, random_delta(llama, RANK, seed=5))
        return found

    shelf.deltas = slow
    cache = FactorCache(shelf, llama)
    cache.get("user 0")
    shelf.deltas = read
    assert len(cache) == 0
    (delta,) = cache.get("user 0").values()
    assert delta.rank == 2 * RANK


def test_views_do_not_keep_large_tensors(llama, shelf):
    big = torch.randn(1000, 48)
    (old,) = shelf.edits["user 0"]
    shelf.edits["user 0"] = [WeightDelta(old.layer, old.left, big[:RANK])]
    (delta,) = FactorCache(shelf, llama).get("user 0").values()
    assert delta.right.untyped_storage().nbytes() == RANK * 48 * 4


def test_threads_share_it(llama, shelf):
    cache = FactorCache(shelf, llama, max_bytes=2 * SIZE)
    faults = []

    def read(shift):
        for i in range(60):
            user = f"user {(i * 7 + shift) % 6}"
            (delta,) = cache.get(user).values()
            if delta.left is not shelf.edits[user][0].left and not torch.equal(delta.left, shelf.edits[user][0].left):
                faults.append(user)

    threads = [threading.Thread(target=read, args=(shift,)) for shift in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == [] and cache.nbytes == len(cache) * SIZE <= 2 * SIZE
    cache.clear()
    assert cache.nbytes == 0 and len(cache) == 0
