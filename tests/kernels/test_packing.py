"""Clusters are packed by length, as many as pay and fit; nobody is lost, however tight the memory is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.kernels import packing, values
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.key_options import KeyOptions
from easyedit_personal.kernels.keys import Cluster, make_clusters
from easyedit_personal.kernels.packing import free_bytes, packed
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import Encoded
from tests.tiny import tiny_model


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
        assert free_bytes(llama) == 1024**3


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


def test_a_pack_is_as_wide_as_its_longest_row_and_runs_from_its_longest_suffix(llama, monkeypatch):
    seen = []
    monkeypatch.setattr(packing, "_bytes", lambda *given: seen.append(given[3:]) or 0)
    packs(llama, [cluster(40, 3, rows=2), cluster(3, 7, rows=1)])
    assert seen[-1] == (3, 7, 44, 3)  # rows, suffix, width with the target, targets


def held(model, problem) -> int:
    """Bytes that one evaluation of the losses keeps for its backward pass, weights not counted."""
    known = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    shifts = torch.zeros(problem.n, problem.base.shape[-1], requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        problem.losses(shifts)  # what it gives is dropped: every storage that was seen is alive until here
    return sum(sizes.values())


@pytest.mark.parametrize("changes", [{}, {"num_hidden_layers": 8}, {"intermediate_size": 256}, {"vocab_size": 4000}])
@pytest.mark.parametrize("question", ["What's my hobby?", "What's my hobby" + " and tell me more of the sea" * 10])
@pytest.mark.parametrize("target", ["hiking", "noodles with pepper " * 10])
def test_what_a_step_holds_is_estimated_from_above_and_not_by_far(tokenizer, changes, question, target):
    model, hparams = tiny_model("llama", **changes), PersonalizationHyperParams(kernel="rome")
    layout = find_layout(model)
    with frozen(model):
        clusters = make_clusters(model, tokenizer, [EditRequest(question, target, "hobby")], hparams, KeyOptions())
        measured = held(model, values._Problem(model, tokenizer, layout, clusters, 1, hparams, KeyOptions()))
    rows = packing._rows(clusters[0])
    width, targets = max(len(row.ids) for row in rows), sum(len(row.target_ids) or 1 for row in rows)
    estimate = packing._bytes(model, layout, 1, len(rows), packing._suffix(clusters[0]), width, targets)
    assert 2 < estimate / measured < (4 if len(question) > 100 else 7)  # short rows pay for the first pass


def test_a_prefix_costs_its_keys_and_values_in_every_layer():
    model = tiny_model("llama", num_hidden_layers=32)
    layout = find_layout(model)
    short, long = (packing._bytes(model, layout, 30, 3, 1, width, 3) for width in (1, 101))
    one_layer = 3 * 100 * 2 * layout.d_model * 4
    assert 32 * one_layer <= long - short <= 64 * one_layer


def test_a_pack_may_fill_two_fifths_of_the_free_memory_to_the_last_byte(llama, mixed, monkeypatch):
    monkeypatch.setattr(packing, "free_bytes", lambda model: 1000)
    for needed, count in ((400, 1), (401, 6)):
        monkeypatch.setattr(packing, "_bytes", lambda *_, needed=needed: needed)
        assert len(packs(llama, mixed)) == count


@pytest.mark.parametrize(("device", "enough"), [("cpu", 1024), ("cuda", 16384), ("another", 16384)])
def test_how_many_tokens_are_enough_depends_on_the_device(llama, monkeypatch, device, enough):
    monkeypatch.setattr(packing, "input_device", lambda model: SimpleNamespace(type=device))
    monkeypatch.setattr(packing, "free_bytes", lambda model: 1)
    monkeypatch.setattr(packing, "_bytes", lambda *_: 0)
    for rows, expected in ((enough, [[0], [1]]), (enough - 1, [[0, 1]])):
        assert packs(llama, [cluster(3, 1, rows), cluster(3, 9)]) == expected


def test_the_estimate_by_hand(llama):
    """Three rows; four layers, three of them above the edit, 32 wide and 48 inside; 400 words; 4 bytes a number."""
    layer = 20 * 32 + 6 * 48  # numbers that a layer keeps per token
    prefix = 3 * 9 * 2 * 32 * (4 + 3)  # keys and values of all layers, and joined above
    for suffix, targets, largest in (
        (5, 7, 3 * 5 * 3 * layer + 7 * 400 * 5),  # a step's activations and logits
        (1, 3, 3 * 9 * layer),  # the first pass through one layer
    ):
        assert packing._bytes(llama, find_layout(llama), 1, 3, suffix, 9, targets) == 4 * (largest + prefix)


def test_tokens_are_counted_as_padded(llama, monkeypatch):
    monkeypatch.setitem(packing.ENOUGH, "cpu", 44)  # 2 clusters of 4 rows: 40 columns as wide as the first, 48 padded
    assert packs(llama, [cluster(4, 5), cluster(4, 6), cluster(4, 7)]) == [[0, 1], [2]]


@pytest.mark.parametrize("enough, expected", [(8, [[0], [1]]), (9, [[0, 1]])])
def test_there_is_enough_as_soon_as_the_number_is_reached(llama, monkeypatch, enough, expected):
    monkeypatch.setitem(packing.ENOUGH, "cpu", enough)  # the first cluster has four rows of two tokens
    assert packs(llama, [cluster(3, 2), cluster(5, 30)]) == expected
