"""Compaction: the best factors within a budget, with the error that is really made."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import StoreError
from easyedit_personal.store.compact import composed, reduced, relative_error
from easyedit_personal.types import WeightDelta
from tests.store.samples import LAYER, edit, joined, overtaken, preference, same


def dense_error(one: list[WeightDelta], two: list[WeightDelta]) -> float:
    """|two - one| / |one| from the full matrices."""
    a, b = one[0].to(torch.float64).update(), two[0].to(torch.float64).update()
    return float((b - a).norm() / a.norm())


def test_the_error_is_the_smallest_possible_and_the_one_reported(store):
    for name in "abc":
        store.put("ann", edit(name))
    report = store.compact("ann", 6)
    exact, now = joined("a", "b", "c"), store.deltas("ann")
    assert report.rank_before == {LAYER: 12} and report.rank_after == {LAYER: 6} and now[0].rank == 6
    assert report.max_error == pytest.approx(dense_error(exact, now), rel=1e-5)
    values = torch.linalg.svdvals(exact[0].to(torch.float64).update())
    assert report.max_error == pytest.approx(float(values[6:].norm() / values.norm()), rel=1e-4)
    assert report.bytes_after < report.bytes_before and 0.1 < report.max_error < 0.9


def test_within_the_true_rank_only_rounding_is_lost(store):
    half = edit("a")[0]
    store.put("ann", [half])
    store.put("ann", [WeightDelta(LAYER, half.left * 2, half.right)])
    report = store.compact("ann", 100)
    assert report.rank_after == {LAYER: 4} and report.max_error < 1e-6
    assert torch.allclose(store.deltas("ann")[0].update(), 3 * half.update(), atol=1e-5)


def test_history_and_preferences_outlive_compaction_and_undo_takes_all(store):
    ids = [store.put("ann", edit(name), preference=preference(name)) for name in "abc"]
    store.undo("ann", ids[1])
    before = store.version("ann")
    report = store.compact("ann", 3)
    assert report.merged == (ids[0], ids[2]) and store.version("ann") == report.edit > before
    assert store.preferences("ann") == [preference("a"), preference("c")]
    assert [(e.id, e.live, e.merged) for e in store.history("ann")] == [
        (ids[0], False, report.edit),
        (ids[1], False, None),
        (ids[2], False, report.edit),
        (report.edit, True, None),
    ]
    assert store.history("ann")[0].nbytes == 0 and store.history("ann")[3].health == {"error": report.max_error}
    with pytest.raises(StoreError, match=rf"(?s)merged.*edit {report.edit}"):
        store.undo("ann", ids[0])
    later = store.put("ann", edit("d"), preference=preference("d"))
    again = store.compact("ann", 5)
    assert again.merged == (report.edit, later) and store.verify() == []
    assert store.preferences("ann") == [preference("a"), preference("c"), preference("d")]
    assert [edit.id for edit in store.undo("ann")] == [again.edit]
    assert store.deltas("ann") == store.preferences("ann") == [] and store.verify() == []
    assert store.forget("ann") == 6 and store.stats()["merged"] == 0


def test_neurons_are_merged_but_never_cut(store):
    placed = []
    for name, places in (("a", (3, 0)), ("b", (5, 1))):
        (delta,) = edit(name)
        one_hot = torch.zeros(64, 2)
        one_hot[list(places), [0, 1]] = 1.0
        placed.append(WeightDelta("x.gate_proj", one_hot, delta.right[:2]))
        store.put("ann", placed[-1:])
    with pytest.raises(StoreError, match=r"(?s)neurons cannot be cut.*4 neurons.*at most 3"):
        store.compact("ann", 3)
    assert [entry.live for entry in store.history("ann")] == [True, True]
    report = store.compact("ann", 4)
    assert report.max_error < 1e-12 and report.bytes_after < report.bytes_before
    (now,) = store.deltas("ann")
    assert torch.equal(now.update(), placed[0].update() + placed[1].update()) and store.verify() == []


def test_what_is_within_the_budget_stays_untouched(store):
    store.put("ann", edit("a"))
    report = store.compact("ann", 4)
    assert (report.edit, report.merged, report.max_error) == (None, (), 0.0) and len(store.history("ann")) == 1
    assert store.compact("nobody", 4).rank_before == {}


def test_too_large_an_error_is_refused_and_nothing_changes(store):
    for name in "ab":
        store.put("ann", edit(name))
    version = store.version("ann")
    with pytest.raises(StoreError, match=r"(?s)Rank 1 is too small.*0.1 or less"):
        store.compact("ann", 1, max_error=0.1)
    assert store.version("ann") == version and same(store.deltas("ann"), joined("a", "b"))
    for name in "ab":
        store.put("ben", edit(name))
    least = store.compact("ben", 1).max_error
    assert store.compact("ann", 1, max_error=least).max_error == least  # what is allowed is allowed
    for rank in (0, -1, 1.5, True, "4"):
        with pytest.raises(StoreError, match="whole number"):
            store.compact("ann", rank)


def test_bfloat16_stays_bfloat16_and_its_rounding_is_in_the_error(store):
    for name in "ab":
        store.put("ann", edit(name), dtype="bfloat16")
    exact = store.deltas("ann")
    report = store.compact("ann", 7)
    assert store.deltas("ann")[0].left.dtype == torch.bfloat16
    assert (
        report.max_error == pytest.approx(dense_error(exact, store.deltas("ann")), rel=1e-3) and report.max_error > 1e-4
    )


def test_what_is_merged_without_loss_is_as_it_was(store):
    for name in "ab":
        store.put("ann", edit(name), dtype="bfloat16")
    exact = store.deltas("ann")
    assert store.compact("ann", 8).max_error < 1e-15 and same(store.deltas("ann"), exact)


def test_an_edit_in_between_is_not_swallowed(store, monkeypatch):
    for name in "ab":
        store.put("ann", edit(name))
    late = overtaken(store, monkeypatch)
    report = store.compact("ann", 9)
    assert late[0] in report.merged and report.rank_before == {LAYER: 9} and report.max_error < 1e-6
    tries = overtaken(store, monkeypatch, times=99)
    with pytest.raises(StoreError, match="keep changing"):
        store.compact("ann", 8)
    assert len(tries) > 3


def test_a_report_of_no_matrices_has_no_error(store):
    report = store.compact("nobody", 4)
    assert report.max_error == 0.0 and report.edit is None and report.merged == ()


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_reduced_matches_the_dense_svd(rank):
    delta = composed(joined("a", "b", "c"))[0]
    u, s, v = torch.linalg.svd(delta.to(torch.float64).update(), full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    assert torch.allclose(reduced(delta, rank).update().double(), best, atol=1e-4)


def test_nothing_at_all_can_be_reduced():
    zero = WeightDelta(LAYER, torch.zeros(4, 2), torch.zeros(2, 5))
    assert reduced(zero, 1).rank == reduced(zero, 2).rank == 1 and relative_error(zero, reduced(zero, 1)) == 0.0
    one = WeightDelta(LAYER, torch.ones(4, 1), torch.ones(1, 5))
    assert relative_error(zero, one) == float("inf") and relative_error(one, zero) == pytest.approx(1.0)


def test_noise_is_measured_by_the_largest_value():
    from easyedit_personal.store.compact import _noise

    values = torch.tensor([8.0, 1.0], dtype=torch.float64)
    assert _noise(values, (3, 5)) == 8 * 5 * torch.finfo(torch.float64).eps and _noise(values[:0], (3, 5)) == 0
