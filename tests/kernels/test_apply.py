"""Updates go in the right way round, and come out bit for bit."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal import WeightDelta
from easyedit_personal.errors import ModelError
from easyedit_personal.kernels import apply
from easyedit_personal.kernels.apply import apply_deltas, edited_copy, in_weights, relative_norm, revert
from easyedit_personal.modeling.layout import find_layout, get_module, linear_weight, weights_digest
from tests.tiny import tiny_model


def delta(model, layer=1, rank=2, seed=0):
    layout, generator = find_layout(model), torch.Generator().manual_seed(seed)
    left = torch.randn(layout.d_model, rank, generator=generator)
    return WeightDelta(layout.rewrite_path(layer), left, torch.randn(rank, layout.d_mlp, generator=generator))


def test_the_projection_changes_as_the_factors_say(any_model):
    """By effect, so that a square weight laid the other way round would be noticed."""
    change = delta(any_model)
    module = get_module(any_model, change.layer)
    keys = torch.randn(5, change.shape[1])
    with torch.no_grad():
        before = module(keys)
        with in_weights(any_model, [change]):
            torch.testing.assert_close(
                module(keys), before + keys @ change.right.T @ change.left.T, rtol=1e-4, atol=1e-4
            )
        assert torch.equal(module(keys), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_undo_is_bit_for_bit(dtype):
    model = tiny_model("llama", dtype)
    digest = weights_digest(model)
    changes = [delta(model, 1), delta(model, 2), delta(model, 1, seed=1)]
    saved = apply_deltas(model, changes)
    assert weights_digest(model) != digest
    assert sorted(saved) == ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"]
    revert(model, saved)
    assert weights_digest(model) == digest


def test_several_updates_are_rounded_once():
    model = tiny_model("llama", torch.bfloat16)
    changes = [delta(model, seed=seed) for seed in range(3)]
    weight = linear_weight(get_module(model, changes[0].layer))
    wanted = (weight.float() + sum(change.update() for change in changes)).to(torch.bfloat16)
    with in_weights(model, changes):
        assert (linear_weight(get_module(model, changes[0].layer)) == wanted).float().mean() > 0.99


def test_an_exception_inside_takes_the_edit_back(llama):
    digest = weights_digest(llama)
    with pytest.raises(KeyboardInterrupt), in_weights(llama, [delta(llama)]):
        assert weights_digest(llama) != digest
        raise KeyboardInterrupt
    assert weights_digest(llama) == digest


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("by the test"), KeyboardInterrupt()], ids=["memory", "ctrl-c"]
)
def test_all_or_nothing_when_the_second_matrix_fails(llama, monkeypatch, error):
    digest, real = weights_digest(llama), apply.write_update

    def out_of_memory(module, path, deltas, original):
        if ".2." in path:
            raise error
        return real(module, path, deltas, original)

    monkeypatch.setattr(apply, "write_update", out_of_memory)
    with pytest.raises(type(error)):
        apply_deltas(llama, [delta(llama, 1), delta(llama, 2)])
    assert weights_digest(llama) == digest


def test_what_does_not_fit_is_refused_before_anything_moves(llama):
    digest, good = weights_digest(llama), delta(llama)
    wrong_shape = WeightDelta("model.layers.2.mlp.down_proj", torch.ones(48, 1), torch.ones(1, 32))
    nowhere = WeightDelta("model.layers.9.mlp.down_proj", good.left, good.right)
    no_matrix = WeightDelta("model.layers.1.input_layernorm", torch.ones(32, 1), torch.ones(1, 32))
    for bad, message in ((wrong_shape, "does not fit"), (nowhere, "no module"), (no_matrix, "cannot be edited")):
        with pytest.raises(ModelError, match=message):
            apply_deltas(llama, [good, bad])
    with pytest.raises(ModelError, match="no parameter 'x' to restore"):
        revert(llama, {"x": torch.ones(1)})
    assert weights_digest(llama) == digest


def test_a_copy_stands_beside_and_shares_the_rest(any_model):
    digest, change = weights_digest(any_model), delta(any_model)
    twin = edited_copy(any_model, [change])
    assert weights_digest(any_model) == digest
    shared = [p.data_ptr() == q.data_ptr() for p, q in zip(any_model.parameters(), twin.parameters())]
    assert shared.count(False) == 1
    with in_weights(any_model, [change]):
        assert weights_digest(twin) == weights_digest(any_model)


def test_relative_norm_is_that_of_the_dense_matrices(any_model):
    changes = [delta(any_model, 1), delta(any_model, 1, seed=1), delta(any_model, 3, rank=1)]
    dense = {1: changes[0].update() + changes[1].update(), 3: changes[2].update()}
    layout = find_layout(any_model)
    wanted = max(
        float(update.norm() / linear_weight(get_module(any_model, layout.rewrite_path(layer))).norm())
        for layer, update in dense.items()
    )
    assert relative_norm(any_model, changes) == pytest.approx(wanted, rel=1e-5)
    assert relative_norm(any_model, []) == 0


def test_factors_that_an_optimiser_holds_can_be_applied(llama):
    """Their gradients are asked for; the weights take the numbers and no graph."""
    layout = find_layout(llama)
    left = torch.randn(layout.d_model, 2, requires_grad=True)
    delta = WeightDelta(layout.rewrite_path(1), left, torch.randn(2, layout.d_mlp, requires_grad=True))
    before = weights_digest(llama)
    with in_weights(llama, [delta]):
        weight = get_module(llama, delta.layer).weight
        assert weights_digest(llama) != before and weight.is_leaf and weight.grad_fn is None
    assert weights_digest(llama) == before


@pytest.mark.parametrize("seed", range(20))
def test_an_update_that_cancels_itself_has_norm_zero_and_not_nan(llama, seed):
    generator = torch.Generator().manual_seed(seed)
    layout = find_layout(llama)
    left, right = torch.randn(layout.d_model, 3, generator=generator), torch.randn(3, layout.d_mlp, generator=generator)
    left, right = left.double(), right.double()
    path = layout.rewrite_path(1)
    opposite = [WeightDelta(path, left, right), WeightDelta(path, -7 * left, right / 7)]  # rounding goes below zero
    assert 0 <= relative_norm(llama, opposite) < 1e-4


def test_the_norm_of_what_overflows_is_no_small_number(llama):
    path = find_layout(llama).rewrite_path(1)
    huge = WeightDelta(path, torch.full((32, 1), 1e200, dtype=torch.float64), torch.ones(1, 48, dtype=torch.float64))
    opposite = WeightDelta(path, -huge.left, huge.right)
    assert not relative_norm(llama, [huge, opposite]) < 1e9
