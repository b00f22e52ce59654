"""Where things are in each architecture, which way its weights lie, and digests that notice changes."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Gemma3Config

from easyedit_personal import PersonalizationHyperParams
from easyedit_personal.errors import ModelError
from easyedit_personal.modeling.layout import (
    context_limit,
    find_layout,
    fingerprint,
    get_module,
    input_device,
    is_transposed,
    linear_weight,
    matrix_shape,
    tokenizer_fingerprint,
    weight_of,
    weights_digest,
)
from tests.tiny import tiny_model, tiny_tokenizer

PATHS = {
    "llama": ("model.layers.{}.mlp.down_proj", "model.norm", "lm_head"),
    "gemma2": ("model.layers.{}.mlp.down_proj", "model.norm", "lm_head"),
    "gpt2": ("transformer.h.{}.mlp.c_proj", "transformer.ln_f", "lm_head"),
    "gptj": ("transformer.h.{}.mlp.fc_out", "transformer.ln_f", "lm_head"),
}


@pytest.mark.parametrize("family", sorted(PATHS))
def test_known_paths(family):
    layout = find_layout(tiny_model(family))
    assert (layout.rewrite, layout.final_norm, layout.head) == PATHS[family]
    assert (layout.family, layout.n_layers, layout.d_model) == (family, 4, 32)


def test_every_path_exists_and_the_projection_fits(any_model):
    layout = find_layout(any_model)
    for path in (layout.layer, layout.rewrite, layout.mlp, layout.attention):
        assert isinstance(get_module(any_model, path.replace("{}", "3")), nn.Module)
    module = get_module(any_model, layout.rewrite_path(2))
    assert matrix_shape(module) == (layout.d_model, layout.d_mlp) == tuple(linear_weight(module).shape)
    keys = torch.randn(5, layout.d_mlp)
    bias = module.bias if module.bias is not None else 0
    torch.testing.assert_close(module(keys), keys @ linear_weight(module).T + bias)


def test_orientation_comes_from_the_type():
    """Two square weights of one shape, one stored as [d_in, d_out]."""
    for family, transposed in (("llama-square", False), ("gpt2-square", True)):
        model = tiny_model(family)
        module = get_module(model, find_layout(model).rewrite_path(0))
        assert module.weight.shape == (32, 32)
        assert is_transposed(module) is transposed


def test_what_cannot_be_edited_is_refused():
    with pytest.raises(ModelError, match=r"floating-point nn\.Linear"):
        is_transposed(nn.Embedding(3, 3), "some.path")
    with pytest.raises(ModelError, match=r"No stack of decoder layers .* in the model Sequential"):
        find_layout(nn.Sequential(nn.Linear(2, 2)))


def test_a_layer_the_model_lacks(llama):
    with pytest.raises(ModelError, match="a layer from 0 to 3"):
        find_layout(llama).rewrite_path(4)


def test_templates_of_the_yaml_win_and_are_checked(llama):
    own = PersonalizationHyperParams(rewrite_module_tmp="model.layers.{}.mlp.up_proj")
    layout = find_layout(llama, own)
    assert layout.rewrite_path(1) == "model.layers.1.mlp.up_proj"
    assert (layout.d_model, layout.d_mlp) == (48, 32)
    wrong = PersonalizationHyperParams(rewrite_module_tmp="model.layers.{}.mlp.down_prj")
    with pytest.raises(ModelError, match=r"Did you mean 'model\.layers\.0\.mlp\.down_proj'"):
        find_layout(llama, wrong)


def test_a_wrapped_layer_is_looked_into(llama):
    peft = pytest.importorskip("peft")
    weight = llama.model.layers[1].mlp.down_proj.weight
    wrapped = peft.get_peft_model(llama, peft.LoraConfig(target_modules=["down_proj"], r=2))
    layout = find_layout(wrapped)
    module = get_module(wrapped, layout.rewrite_path(1))
    assert weight_of(module) is weight
    assert matrix_shape(module) == (32, 48)


def test_fingerprint_notices_any_low_rank_edit(any_model):
    layout, twin = find_layout(any_model), copy.deepcopy(any_model)
    assert fingerprint(twin) == fingerprint(any_model)
    path = layout.rewrite_path(1)
    with torch.no_grad():
        linear_weight(get_module(twin, path)).add_(torch.outer(torch.randn(32), torch.randn(layout.d_mlp)) * 1e-3)
    assert fingerprint(twin) != fingerprint(any_model)
    assert weights_digest(twin) != weights_digest(any_model)
    assert fingerprint(twin, without=[path]) == fingerprint(any_model, without=[path])
    assert fingerprint(any_model, without=[layout.rewrite_path(2)]) != fingerprint(any_model)


def test_fingerprints_of_different_models_and_tokenizers_differ():
    assert fingerprint(tiny_model(seed=1)) != fingerprint(tiny_model(seed=2))
    assert fingerprint(tiny_model(rope_theta=1e4)) != fingerprint(tiny_model(rope_theta=1e5))
    assert tokenizer_fingerprint(tiny_tokenizer()) != tokenizer_fingerprint(tiny_tokenizer(chat=False))


def test_weights_digest_sees_a_single_bit(llama):
    before = weights_digest(llama)
    with torch.no_grad():
        llama.model.norm.weight[3] += 1e-7
    assert weights_digest(llama) != before


def test_device_and_context(any_model):
    assert input_device(any_model) == torch.device("cpu")
    assert context_limit(any_model) == 256
    assert context_limit(nn.Linear(1, 1)) is None


def test_the_context_of_a_model_that_also_sees_is_its_texts():
    """Gemma 3's larger models keep it one level down."""
    config = Gemma3Config(text_config={"max_position_embeddings": 99})
    assert context_limit(SimpleNamespace(config=config)) == 99
