"""Each family's record says what transformers, PEFT and a test say of the architecture; others can be added."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from easyedit_personal.errors import ModelError
from easyedit_personal.modeling.families import Family, family_named, family_of, known_families
from easyedit_personal.modeling.layout import find_layout, get_module, is_transposed
from easyedit_personal.registry import FAMILIES
from tests.tiny import tiny_model

every_family = pytest.mark.parametrize("family", known_families(), ids=lambda family: family.name)


def random_model(family: Family):
    config = getattr(transformers, family.config)(**family.tiny, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@every_family
def test_the_record_names_modules_that_are_there(family):
    model = random_model(family)
    assert family_of(model) == family
    layout, stack = find_layout(model), family.layers.rpartition(".")[0]
    assert layout.family == family.name
    assert layout.rewrite == f"{family.layers}.{{}}.{family.down}"
    assert layout.attention == f"{family.layers}.{{}}.{family.attention}"
    assert layout.final_norm == f"{stack}.{family.final_norm}"
    assert layout.post_norm == family.post_norm
    assert is_transposed(get_module(model, layout.rewrite_path(0))) == family.fan_in_fan_out


@every_family
def test_lora_adapts_modules_that_are_there_and_the_same_as_pefts_default(family):
    names = {path.rpartition(".")[2] for path, _ in random_model(family).named_modules()}
    assert set(family.lora_targets) <= names and family.lora_targets
    known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    if family.name in known:
        assert list(family.lora_targets) == list(known[family.name])


def test_paths_tell_the_family_also_inside_of_another_module():
    assert family_named("gpt2").has_down("base_model.model.transformer.h.11.mlp.c_proj")
    assert not family_named("gpt2").has_down("transformer.h.11.attn.c_proj")
    assert not family_named("llama").has_down("model.layers.x.mlp.down_proj")


def test_an_architecture_without_a_record_is_found_by_module_names_and_nothing_more_is_assumed():
    model = tiny_model("olmo2")
    model.config.model_type = "olmo9"
    layout = find_layout(model)
    assert (layout.family, layout.rewrite) == ("olmo9", "model.layers.{}.mlp.down_proj")
    assert layout.post_norm == "post_feedforward_layernorm"
    assert family_of(model) == Family("olmo9") and not family_of(model).branches


class Foreign(nn.Module):
    """A decoder with names that no record has."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"ff": nn.ModuleDict({"out": nn.Linear(6, 4)})}) for _ in range(2))
        self.last = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 10)
        self.config = transformers.PreTrainedConfig()
        self.config.model_type = "foreign"

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.last(x))


def test_a_family_from_outside_is_one_record():
    with pytest.raises(ModelError, match="register a Family"):
        find_layout(Foreign())
    FAMILIES.register("foreign")(Family("foreign", layers="blocks", down="ff.out", attention="", final_norm="last"))
    try:
        layout = find_layout(Foreign())
        assert (layout.rewrite, layout.final_norm, layout.d_mlp) == ("blocks.{}.ff.out", "last", 6)
        assert "foreign" in {family.name for family in known_families()}
    finally:
        FAMILIES.unregister("foreign")
