"""Rows are grouped by what they begin with where that saves a pass over it."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from easyedit_personal.generation import shared_prefix
from easyedit_personal.generation.shared_prefix import (
    families,
    inputs_after,
    shared_length,
    slides,
    without_beginning,
)
from easyedit_personal.modeling.tokens import Encoded
from tests.tiny import tiny_tokenizer


def row(*ids):
    return Encoded(ids, (), len(ids) - 1)


def test_rows_that_begin_alike_are_a_family_and_others_stay_together(monkeypatch):
    monkeypatch.setattr(shared_prefix, "SAVED", 9)
    rows = [row(9, 8, 7), *(row(1, 2, 3, 4, 5, n, n) for n in range(10, 14)), row(1, 2), row(6, 6, 1), row(6, 6, 2)]
    found, loose = families(rows)
    assert (found, sorted(loose)) == ([[1, 2, 3, 4]], [0, 5, 6, 7])
    assert shared_length(None, [rows[i] for i in found[0]]) == 5


def test_a_fork_makes_a_family_of_its_own_where_that_saves_tokens(monkeypatch):
    rows = [row(*range(6), n) for n in (10, 11, 12, 13)] + [row(*range(6), 20, 21, 22, n) for n in (30, 31, 32, 33)]
    monkeypatch.setattr(shared_prefix, "SAVED", 4)  # 3 tokens more in 4 rows, for a pass over all 9
    assert families(rows) == ([[*range(8)]], [])
    monkeypatch.setattr(shared_prefix, "SAVED", 3)
    assert families(rows) == ([[4, 5, 6, 7], [0, 1, 2, 3]], [])


def test_a_row_that_another_begins_with_keeps_its_last_token(monkeypatch):
    monkeypatch.setattr(shared_prefix, "SAVED", 1)
    rows = [row(1, 2, 3, 4, 5), row(1, 2, 3, 4, 5, 6)]
    assert families(rows) == ([[0, 1]], []) and shared_length(None, rows) == 4
    assert without_beginning(rows[0], 4) == row(5)


def test_little_that_is_shared_is_read_with_the_rest():
    rows = [row(1, 2, 3, 4, n) for n in range(5)]
    assert families(rows) == ([], [*range(5)]) and shared_length(None, rows) == 0
    assert families([]) == ([], [])


def test_nothing_is_shared_where_a_window_slides(monkeypatch):
    monkeypatch.setattr(shared_prefix, "SAVED", 1)
    rows = [row(1, 2, 3, 4, n) for n in range(5)]
    for config in ({"sliding_window": 16}, {"layer_types": ["full_attention", "sliding_attention"]}):
        model = SimpleNamespace(config=SimpleNamespace(**config))
        assert slides(model) and shared_length(model, rows) == 0
    assert not slides(SimpleNamespace(config=SimpleNamespace(sliding_window=None)))
    assert shared_length(None, rows) == 4


def test_a_beginning_serves_many_batches(llama):
    """What one batch writes behind it is not there for the next."""
    with torch.no_grad():
        cache = llama(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
        for tails in ((8, 9), (10,)):
            rows = [row(5, 6, 7, tail) for tail in tails]
            _, inputs = inputs_after(tiny_tokenizer(), rows, 3, cache, "cpu")
            logits = llama(**inputs, use_cache=True).logits[:, -1]
            whole = llama(torch.tensor([each.ids for each in rows])).logits[:, -1]
            torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-4)
    assert cache.get_seq_length() == 3 and all(len(layer.keys) == 1 for layer in cache.layers)
