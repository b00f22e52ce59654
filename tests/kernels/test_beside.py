"""Neurons of edits beside those of the model: they add what they say, and nothing of the model is lost."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.editing.composition import _trimmed
from easyedit_personal.errors import ModelError
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.beside import Beside, beside, edited
from easyedit_personal.kernels.carried import Cells
from easyedit_personal.kernels.neurons import as_updates
from easyedit_personal.modeling.layout import get_module, weights_digest
from easyedit_personal.serving.multi_adapter import merged, mixed
from easyedit_personal.types import WeightDelta
from tests.tiny import tiny_model

BLOCK = "model.layers.2.mlp"
IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def model():
    return tiny_model("llama").eval().requires_grad_(False)


def cells(count, seed=0):
    """Neurons that say something everywhere."""
    torch.manual_seed(seed)
    return Cells(torch.randn(count, 32), torch.randn(32), torch.randn(32, count))


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def with_cells(model, *some):
    """What the model says whose MLP gives what these neurons say, too."""
    block = get_module(model, BLOCK)
    added = lambda module, args, output: output + sum(one(args[0], block.act_fn) for one in some)
    handle = block.register_forward_hook(added)
    try:
        return logits(model)
    finally:
        handle.remove()


def test_neurons_add_what_they_say_to_what_the_mlp_gives_and_the_weights_stay(model):
    new, before, digest = cells(3), logits(model), weights_digest(model)
    deltas = as_updates(model, BLOCK, new, [5, 0, 7])
    with edited(model, deltas):
        found = logits(model)
        assert weights_digest(model) == digest
    torch.testing.assert_close(found, with_cells(model, new), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(model), before)
    with in_weights(model, deltas):  # in the weights, three of the model's own are gone
        assert float((logits(model) - found).abs().max()) > 2e-5


def test_several_edits_neurons_stand_together_and_those_of_one_that_was_taken_back_are_gone(model):
    one, two = cells(2), cells(3, seed=1)
    first, second = as_updates(model, BLOCK, one, [1, 2]), as_updates(model, BLOCK, two, [3, 4, 9])
    with edited(model, [*first, *second]):
        found = logits(model)
    torch.testing.assert_close(found, with_cells(model, one, two), atol=1e-4, rtol=1e-4)
    minus = [WeightDelta(delta.layer, -delta.left, delta.right) for delta in first]
    neurons, others = beside(model, [*first, *second, *minus])
    assert neurons[BLOCK].rank == 3 and not others
    assert beside(model, [*first, *minus]) == ({}, [])


def test_what_is_left_of_an_edit_that_was_replaced_doubles_no_neuron_also_in_bfloat16(model):
    old, new = as_updates(model, BLOCK, cells(3), [10, 20, 30]), as_updates(model, BLOCK, cells(2, seed=1), [10, 20])
    minus = [WeightDelta(delta.layer, -delta.left, delta.right) for delta in old]
    difference = [_trimmed(delta) for delta in merged([*new, *minus]).values()]
    for rounded in (torch.float32, torch.bfloat16):
        kept = [delta.to(rounded).to(torch.float32) for delta in [*old, *difference]]
        neurons, others = beside(model, kept)
        assert neurons[BLOCK].rank == 2 and not others
        torch.testing.assert_close(neurons[BLOCK].rows, cells(2, seed=1).rows, atol=0.05, rtol=0.05)


def test_what_is_no_update_by_neurons_goes_into_the_weights(model):
    down = WeightDelta(f"{BLOCK}.down_proj", torch.randn(32, 2), torch.randn(2, 48))
    dense = [
        WeightDelta(f"{BLOCK}.{name}", torch.randn(48, 1), torch.randn(1, 32)) for name in ("gate_proj", "up_proj")
    ]
    for deltas in ([down], [*dense, down]):
        assert beside(model, deltas) == ({}, deltas)
        with edited(model, deltas):
            found = logits(model)
        with in_weights(model, deltas):
            assert torch.equal(found, logits(model))


def test_an_update_that_does_not_fit_is_refused_before_anything_changes(model):
    deltas = as_updates(model, BLOCK, cells(1), [0])
    wrong = WeightDelta(f"{BLOCK}.down_proj", torch.ones(32, 1), torch.ones(1, 47))
    before = logits(model)
    with pytest.raises(ModelError, match="does not fit"), edited(model, [*deltas, wrong]):
        pass
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (7, 1), (0, 4)], ids=str)
def test_every_row_of_a_batch_has_its_own_neurons(model, sizes):
    rows = [merged(as_updates(model, BLOCK, cells(n, seed=n), range(n))) if n else {} for n in sizes]
    with mixed(model, rows):
        found = logits(model)
    for number, n in enumerate(sizes):
        alone = with_cells(model, *([cells(n, seed=n)] if n else []))
        torch.testing.assert_close(found[number], alone[number], atol=1e-4, rtol=1e-4)


def test_neurons_and_plain_updates_of_one_mlp_stand_in_one_batch(model):
    down = WeightDelta(f"{BLOCK}.down_proj", torch.randn(32, 2), torch.randn(2, 48))
    with mixed(model, [merged(as_updates(model, BLOCK, cells(2), [0, 1])), {down.layer: down}]):
        found = logits(model)
    torch.testing.assert_close(found[0], with_cells(model, cells(2))[0], atol=1e-4, rtol=1e-4)
    with in_weights(model, [down]):
        torch.testing.assert_close(found[1], logits(model)[1], atol=1e-4, rtol=1e-4)


def test_an_mlp_with_biases_keeps_its_neurons_in_the_weights(model):
    deltas = as_updates(model, BLOCK, cells(2), [0, 1])
    get_module(model, f"{BLOCK}.gate_proj").bias = torch.nn.Parameter(torch.ones(48))
    assert beside(model, deltas) == ({}, deltas)


def test_neurons_say_how_many_they_are():
    made = Beside(torch.randn(4, 32), torch.randn(4, 32), torch.randn(32, 4), torch.nn.functional.silu)
    assert made.rank == 4 and made(torch.randn(2, 3, 32)).shape == (2, 3, 32)
