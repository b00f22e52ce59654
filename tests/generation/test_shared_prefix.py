"""Rows are grouped by what they begin with where that saves a pass over it."""

from __future__ import annotations

from types import SimpleNamespace

from easyedit_personal.generation import shared_prefix as beginnings
from easyedit_personal.generation.shared_prefix import by_beginning, slides
from easyedit_personal.modeling.tokens import Encoded


def row(*ids):
    return Encoded(ids, (), len(ids) - 1)


def test_rows_that_begin_alike_are_grouped_and_others_stay_together(monkeypatch):
    monkeypatch.setattr(beginnings, "SAVED", 8)
    alike = [row(1, 2, 3, 4, 5, n, n) for n in range(10, 14)]
    others = [row(9, 8, 7), row(1, 2), row(6, 6, 6, 6, 1), row(6, 6, 6, 6, 2)]
    groups = by_beginning(None, [others[0], *alike, *others[1:]])
    assert groups == [(5, alike), (0, others)]


def test_a_row_that_another_begins_with_keeps_its_last_token(monkeypatch):
    monkeypatch.setattr(beginnings, "SAVED", 1)
    rows = [row(1, 2, 3, 4, 5), row(1, 2, 3, 4, 5, 6)]
    assert by_beginning(None, rows) == [(4, rows)]
    assert beginnings.without_beginning(rows[0], 4) == row(5)


def test_little_that_is_shared_is_read_with_the_rest():
    rows = [row(1, 2, 3, 4, n) for n in range(5)]
    assert by_beginning(None, rows) == [(0, rows)]


def test_nothing_is_shared_where_a_window_slides(monkeypatch):
    monkeypatch.setattr(beginnings, "SAVED", 1)
    rows = [row(1, 2, 3, 4, n) for n in range(5)]
    for config in ({"sliding_window": 16}, {"layer_types": ["full_attention", "sliding_attention"]}):
        model = SimpleNamespace(config=SimpleNamespace(**config))
        assert slides(model)
        assert by_beginning(model, rows) == [(0, rows)]
    assert not slides(SimpleNamespace(config=SimpleNamespace(sliding_window=None)))
