"""Clusters are packed by length, as many as pay and fit; nobody is lost, however tight the memory is."""

from __future__ import annotations

import pytest
import torch

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


def test_packs_hold_as_many_as_pay(llama, monkeypatch):
    monkeypatch.setitem(packing.ENOUGH, "cpu", 100)  # a cluster below is of 4 rows x 5 columns; prefixes do not count
    assert [len(pack) for pack in packs(llama, [cluster(100, 5)] * 23)] == [10, 10, 3]
    wider = [cluster(4, 5)] * 5 + [cluster(4, 6)] + [cluster(4, 7)] * 2
    assert packs(llama, wider) == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert packs(llama, []) == []


def test_a_row_that_ends_at_its_key_is_a_column_wide():
    row = Encoded((5, 6, 7), (), 2)
    assert packing._suffix(Cluster((0,), ((row,),), ())) == 1
    assert packing._suffix(Cluster((0,), ((row,),), (Encoded((5, 6, 7, 8), (9, 9), 0),))) == 5


def test_what_linux_says_of_its_memory_is_read(llama, monkeypatch):
    monkeypatch.setattr(packing.Path, "read_text", lambda *_, **__: "MemFree: 7 kB\nMemAvailable:    123 kB\n")
    assert free_bytes(llama) == 123 * 1024


@pytest.mark.parametrize("error", [ValueError, OSError, AttributeError])
def test_where_no_system_says_it_a_guess_has_to_do(llama, monkeypatch, error):
    def silent(*_, **__):
        raise error

    for lines in (lambda *_, **__: "MemAvailable: much", lambda *_, **__: (_ for _ in ()).throw(OSError())):
        monkeypatch.setattr(packing.Path, "read_text", lines)
        monkeypatch.setattr(packing.os, "sysconf", lambda name: {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 5}[name])
        assert free_bytes(llama) == 15
        monkeypatch.setattr(packing.os, "sysconf", silent)
        assert free_bytes(llama) == packing.UNKNOWN


def test_a_gpus_free_memory_counts_what_torch_keeps_for_itself(llama, monkeypatch):
    monkeypatch.setattr(packing, "input_device", lambda model: torch.device("cuda"))
    for name, value in {"mem_get_info": (100, 200), "memory_reserved": 30, "memory_allocated": 10}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_bytes(llama) == 120


def test_every_target_token_counts_and_a_row_without_one_as_one(llama, monkeypatch):
    seen = []
    monkeypatch.setattr(packing, "_bytes", lambda *given: seen.append(given[-1]) or 0)
    of_three = Cluster((0,), ((Encoded((5, 6), (7, 8, 9), 1),) * 2,), (Encoded((5,), (), 0),))
    assert packs(llama, [of_three, of_three]) == [[0, 1]] and seen[-1] == 14
