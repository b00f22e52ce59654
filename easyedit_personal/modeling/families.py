"""What differs between architectures, one ``Family`` record each; everything else asks here.

A family from outside the package: ``FAMILIES.register("mine")(Family("mine", down="ff.out"))``. In an architecture
without a record, modules are found by the names that other families use; nothing that only a test can show is assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..registry import FAMILIES


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture, by transformers' ``model_type``.

    Attributes:
        name: ``config.model_type``.
        layers: path of the stack of decoder layers.
        down: path of the MLP's down projection, the matrix that is edited, inside a decoder layer.
        attention: path of the attention module inside a decoder layer.
        final_norm: name of the last norm, beside the stack of layers.
        post_norm: name of the norm inside a decoder layer that the down projection's output passes through before it
            is added to the residual stream (Gemma 2, OLMo 2); "" where it is added as it is.
        fan_in_fan_out: PEFT's word for weights kept as [d_in, d_out] (transformers' ``Conv1D``).
        lora_targets: what PEFT's LoRA adapts by default; empty leaves it to PEFT.
        vllm: whether vLLM serves LoRA adapters of it (read in vLLM 0.33).
        gated: its MLPs have a gate, an up and a down projection, plain linear layers: neurons that an edit can take
            (``kernels.neurons``).
        branches: a test has seen one row become many at a down projection, the residual stream being broadcast.
        host_name: a model name from which EasyEdit guesses orientation, loader and loss rightly.
        host_settings: EasyEdit's YAML files that suit, best first, each with the depth of the model it is for.
        config: transformers' configuration class, for the trial on a tiny random model (``family_trial``).
        tiny: its options.
    """

    name: str
    layers: str = "model.layers"
    down: str = "mlp.down_proj"
    attention: str = "self_attn"
    final_norm: str = "norm"
    post_norm: str = ""
    fan_in_fan_out: bool = False
    lora_targets: tuple[str, ...] = ()
    vllm: bool = False
    gated: bool = False
    branches: bool = False
    host_name: str = "llama"
    host_settings: tuple[tuple[str, int], ...] = ()
    config: str = ""
    tiny: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def has_down(self, path: str) -> bool:
        """Whether ``path`` is that of a down projection in a model of this family, perhaps inside another module."""
        return re.search(rf"(^|\.){re.escape(self.layers)}\.\d+\.{re.escape(self.down)}$", path) is not None


def family_named(name: str) -> Family:
    """The record of a ``model_type``; for one that has none, a record of defaults under its name."""
    return FAMILIES.get(name) if name in FAMILIES else Family(name)


def family_of(model: Any) -> Family:
    """The record of a model's architecture, as ``family_named``."""
    return family_named(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def known_families() -> list[Family]:
    """All records, by name."""
    return FAMILIES.loaded()


_SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
_GPT = {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "rotary_dim": 4}
_QUERY_AND_VALUE = ("q_proj", "v_proj")
_HOST_LLAMA = (("llama3-8b", 32), ("llama3-8b-instruct", 32), ("llama-7b", 32), ("mistral-7b", 32))
_HOST_QWEN = (("qwen2.5-7b", 28), ("qwen2-7b", 28))

LLAMA = Family(
    "llama",
    lora_targets=_QUERY_AND_VALUE,
    gated=True,
    vllm=True,
    branches=True,
    host_settings=_HOST_LLAMA,
    config="LlamaConfig",
    tiny={**_SMALL, **_HEADS},
)
MISTRAL = Family(
    "mistral",
    lora_targets=_QUERY_AND_VALUE,
    gated=True,
    vllm=True,
    branches=True,
    host_name="mistral",
    host_settings=(("mistral-7b", 32),),
    config="MistralConfig",
    tiny={**_SMALL, **_HEADS, "sliding_window": 8},
)
QWEN2 = Family(
    "qwen2",
    lora_targets=_QUERY_AND_VALUE,
    gated=True,
    vllm=True,
    branches=True,
    host_name="qwen2",
    host_settings=_HOST_QWEN,
    config="Qwen2Config",
    tiny={**_SMALL, **_HEADS},
)
QWEN3 = Family(
    "qwen3",
    lora_targets=_QUERY_AND_VALUE,
    gated=True,
    vllm=True,
    branches=True,
    host_name="qwen3",
    host_settings=_HOST_QWEN,
    config="Qwen3Config",
    tiny={**_SMALL, **_HEADS},
)
GEMMA2 = Family(
    "gemma2",
    post_norm="post_feedforward_layernorm",
    lora_targets=_QUERY_AND_VALUE,
    gated=True,
    config="Gemma2Config",
    tiny={**_SMALL, **_HEADS, "sliding_window": 8},
)
GEMMA3 = Family(  # text only; inside of a multimodal one its stack is called model.language_model.layers
    "gemma3_text",
    post_norm="post_feedforward_layernorm",
    lora_targets=_QUERY_AND_VALUE,
    gated=True,
    config="Gemma3TextConfig",
    tiny={**_SMALL, **_HEADS, "sliding_window": 8, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
)
OLMO2 = Family(
    "olmo2",
    post_norm="post_feedforward_layernorm",
    lora_targets=_QUERY_AND_VALUE,
    gated=True,
    branches=True,
    config="Olmo2Config",
    tiny={**_SMALL, **_HEADS},
)
GPT2 = Family(
    "gpt2",
    layers="transformer.h",
    down="mlp.c_proj",
    attention="attn",
    final_norm="ln_f",
    fan_in_fan_out=True,
    lora_targets=("c_attn",),
    branches=True,
    host_name="gpt2-xl",
    host_settings=(("gpt2-xl", 48),),
    config="GPT2Config",
    tiny=_GPT,
)
GPTJ = Family(
    "gptj",
    layers="transformer.h",
    down="mlp.fc_out",
    attention="attn",
    final_norm="ln_f",
    lora_targets=_QUERY_AND_VALUE,
    branches=True,
    host_name="gpt-j-6b",
    host_settings=(("gpt-j-6b", 28), ("gpt-j-6B", 28)),
    config="GPTJConfig",
    tiny=_GPT,
)
GPT_NEOX = Family(
    "gpt_neox",
    layers="gpt_neox.layers",
    down="mlp.dense_4h_to_h",
    attention="attention",
    final_norm="final_layer_norm",
    lora_targets=("query_key_value",),
    config="GPTNeoXConfig",
    tiny={**_SMALL, "num_attention_heads": 2, "max_position_embeddings": 64},
)
PHI = Family(
    "phi",
    down="mlp.fc2",
    final_norm="final_layernorm",
    lora_targets=(*_QUERY_AND_VALUE, "fc1", "fc2"),
    config="PhiConfig",
    tiny={**_SMALL, "num_attention_heads": 2, "max_position_embeddings": 64},
)
OPT = Family(
    "opt",
    layers="model.decoder.layers",
    down="fc2",
    final_norm="final_layer_norm",
    lora_targets=_QUERY_AND_VALUE,
    config="OPTConfig",
    tiny={
        **{"vocab_size": 64, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 3, "word_embed_proj_dim": 16},
        **{"num_attention_heads": 2, "max_position_embeddings": 64},
    },
)
