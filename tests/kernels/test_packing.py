"""Clusters are packed by length, as many as pay and fit; nobody is lost, however tight the memory is."""

from __future__ import annotations

import pytest

from easyedit_personal.kernels import packing
from easyedit_personal.kernels.keys import Cluster
from easyedit_personal.kernels.packing import free_bytes, packed
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import Encoded


def cluster(prefix, suffix, rows=4):
    """Rows whose key stands ``suffix`` tokens before the end of what is read."""
    row = Encoded(tuple(range(5, 5 + prefix + suffix)), (7,), prefix)
    return Cluster((0,), ((row,) * rows,), ())


@pytest.fixture
def mixed():
    return [cluster(prefix, suffix) for prefix, suffix in [(5, 30), (3, 2), (40, 2), (8, 31), (6, 3), (2, 90)]]


def packs(model, clusters):
    return list(packed(model, find_layout(model), clusters, 1))


def test_small_work_goes_together(llama, mixed):
    (pack,) = packs(llama, mixed)
    assert sorted(pack) == list(range(6))


def test_lengths_are_not_mixed_once_there_is_enough(llama, mixed, monkeypatch):
    monkeypatch.setitem(packing.ENOUGH, "cpu", 8)
    found = packs(llama, mixed * 3)
    assert sorted(number for pack in found for number in pack) == list(range(18))
    lengths = [len(row.ids) - 1 - row.key_index for row in (c.rows[0][0] for c in mixed)]
    for pack in found:
        suffixes = [lengths[number % 6] for number in pack]
        assert max(suffixes) <= packing.WIDEST * min(suffixes)


def test_memory_bounds_a_pack(llama, mixed, monkeypatch):
    whole = packing._bytes(llama, find_layout(llama), 1, 24, 90, 92, 24)
    monkeypatch.setattr(packing, "free_bytes", lambda model: whole / packing.SHARE / 3)
    assert 1 < len(packs(llama, mixed)) < 6
    monkeypatch.setattr(packing, "free_bytes", lambda model: 0)
    assert sorted(packs(llama, mixed)) == [[i] for i in range(6)]


def test_free_memory_is_found(llama, monkeypatch):
    assert free_bytes(llama) > 2**20
    monkeypatch.setattr(packing.Path, "read_text", lambda *_, **__: "nothing of the sort")
    assert free_bytes(llama) > 2**20
