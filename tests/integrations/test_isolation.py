"""Whatever foreign code does to a model, a tokenizer or the generators is gone afterwards."""

from __future__ import annotations

import os
import random

import pytest
import torch

from easyedit_personal.integrations.easyedit.isolation import in_private, untouched
from easyedit_personal.modeling.layout import fingerprint


def state(model):
    """Everything that must come back: the tree, its attributes, the tensors' identity, memory and bits."""
    return (
        [(name, id(module), sorted(vars(module)), module.training) for name, module in model.named_modules()],
        [(name, id(p), p.data_ptr(), p.dtype, p.requires_grad, p.grad) for name, p in model.named_parameters()],
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        model.config.to_dict(),
    )


def assert_same(before, after):
    assert before[0] == after[0] and before[1] == after[1] and before[3] == after[3]
    assert before[2].keys() == after[2].keys()
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])


def wreck(model, tokenizer):
    """What EasyEdit's methods were seen to do, and a little more."""
    layer = model.model.layers[1]
    layer.mlp.down_proj.weight.data += 1  # ULTRAEDIT; no version counter notices
    layer.mlp = torch.nn.Sequential(layer.mlp)  # GRACE, WISE
    model.lm_head.register_forward_hook(lambda *args: None)
    model.gradient_checkpointing_enable()  # LoRA
    model.enable_input_require_grads()
    model.config.use_cache = False
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # ROME
    model.model.embed_tokens.weight.grad = torch.ones_like(model.model.embed_tokens.weight)
    model.peft_config = {}
    model.half()
    tokenizer.padding_side = "left" if tokenizer.padding_side == "right" else "right"


def test_model_and_tokenizer_come_back_bit_for_bit(llama, tokenizer):
    before, side, digest = state(llama), tokenizer.padding_side, fingerprint(llama)
    with untouched(llama, tokenizer):
        wreck(llama, tokenizer)
        assert fingerprint(llama) != digest
    assert_same(before, state(llama))
    assert tokenizer.padding_side == side


def test_they_come_back_after_an_error_too(llama, tokenizer):
    before = state(llama)
    with pytest.raises(ZeroDivisionError), untouched(llama, tokenizer):
        wreck(llama, tokenizer)
        raise ZeroDivisionError
    assert_same(before, state(llama))


def test_a_copy_is_kept_of_the_named_weights_only(llama, tokenizer):
    named, other = llama.model.layers[0].mlp.down_proj.weight, llama.model.layers[3].mlp.down_proj.weight
    original = named.detach().clone()
    with untouched(llama, tokenizer, ["model.layers.0.mlp.down_proj.weight"]), torch.no_grad():
        named += 1
        other += 1
        changed = other.detach().clone()
    assert torch.equal(named, original) and torch.equal(other, changed)


def test_private_runs_are_seeded_quiet_and_leave_no_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random.seed(1)
    torch.manual_seed(1)
    generators = random.getstate(), torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with in_private(seed=3):
            print("loss 3.2")
            open("null_space_project.pt", "w").close()
            drawn.append((random.random(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
    assert os.listdir(tmp_path) == [] and capsys.readouterr().out == ""
    assert random.getstate() == generators[0] and torch.equal(torch.get_rng_state(), generators[1])
