"""Hooks see what passes through a module, whatever shape its output has, and always come off again."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.modeling.layout import find_layout, get_module
from easyedit_personal.modeling.trace import replacing, trace

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_inputs_and_outputs_of_every_architecture(any_model):
    layout = find_layout(any_model)
    down, layer = layout.rewrite_path(1), layout.layer_path(1)
    with torch.no_grad(), trace(any_model, [down, layer]) as calls:
        any_model(IDS)
    assert calls[down].input.shape == (2, 3, layout.d_mlp)
    assert calls[down].output.shape == calls[layer].output.shape == calls[layer].input.shape == (2, 3, layout.d_model)
    with torch.no_grad():
        assert torch.equal(get_module(any_model, down)(calls[down].input), calls[down].output)
    assert hooks(any_model) == 0


def test_stop_runs_nothing_above(llama):
    layout, later = find_layout(llama), []
    get_module(llama, layout.layer_path(2)).register_forward_hook(lambda *_: later.append(1))
    with trace(llama, [layout.layer_path(0), layout.layer_path(1)], stop=True) as calls:
        llama(IDS)
        later.append("not reached")
    assert later == []
    assert set(calls) == {"model.layers.0", "model.layers.1"}


def test_hooks_come_off_after_an_exception(llama):
    with pytest.raises(RuntimeError, match="by the user"), trace(llama, ["model.layers.0"]):
        raise RuntimeError("by the user")
    with pytest.raises(RuntimeError, match="by the user"), replacing(llama.model.layers[0], torch.zeros_like):
        raise RuntimeError("by the user")
    assert hooks(llama) == 0


def test_a_module_that_was_not_called_is_named(llama):
    with pytest.raises(ModelError, match=r"model\.layers\.3' was never called"), trace(llama, ["model.layers.3"]):
        llama.model.embed_tokens(IDS)
    with pytest.raises(ModelError, match=r"no module 'model\.layer\.3'"), trace(llama, ["model.layer.3"]):
        pass


def test_outputs_are_replaced_at_positions(any_model):
    """The shape stays (GPT-J's layers return tuples), other positions stay, and gradients flow to the values."""
    path = find_layout(any_model).layer_path(1)
    rows, columns = torch.tensor([0, 1]), torch.tensor([1, 2])
    values = torch.ones(2, 32, requires_grad=True)
    with trace(any_model, [path]) as before:
        any_model(IDS)
    with (
        replacing(get_module(any_model, path), lambda hidden: hidden.index_put((rows, columns), values)),
        trace(any_model, [path]) as after,
    ):
        logits = any_model(IDS).logits
    assert torch.equal(after[path].output[rows, columns], values)
    untouched = torch.ones(2, 3, dtype=torch.bool)
    untouched[rows, columns] = False
    assert torch.equal(after[path].output[untouched], before[path].output[untouched])
    logits[0, 1].max().backward()
    assert values.grad[0].abs().sum() > 0
    assert values.grad[1].abs().sum() == 0


def test_outputs_are_copies(llama):
    """Some models add to a module's output in place; what was captured must not change with it."""
    layer = llama.model.layers[0]
    layer.mlp.register_forward_hook(lambda module, args, output: output.add_(1))
    with torch.no_grad(), trace(llama, ["model.layers.0.mlp.down_proj"]) as calls:
        llama(IDS)
        down = layer.mlp.down_proj(calls["model.layers.0.mlp.down_proj"].input)
    assert torch.equal(calls["model.layers.0.mlp.down_proj"].output, down)
