"""Which architectures are edited fast here: tried on tiny random models with the transformers that is installed.

A model of another kind is tried so on its first edit; where that fails, every step is a whole forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from .layout import find_layout
from .suffix import Split, Suffix
from .tokens import Encoded, collate

SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
GPT = {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "rotary_dim": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SMALL, **HEADS}),
    "mistral": ("MistralConfig", {**SMALL, **HEADS, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", {**SMALL, **HEADS}),
    "qwen3": ("Qwen3Config", {**SMALL, **HEADS}),
    "gemma2": ("Gemma2Config", {**SMALL, **HEADS, "sliding_window": 8}),
    "gemma3": ("Gemma3TextConfig", {**SMALL, **HEADS, "sliding_window": 8}),
    "olmo2": ("Olmo2Config", {**SMALL, **HEADS}),
    "gpt2": ("GPT2Config", GPT),
    "gptj": ("GPTJConfig", GPT),
}


class _NoTokenizer:
    """What ``collate`` asks a tokenizer for."""

    pad_token_id = eos_token_id = 0


@torch.no_grad()
def split_of(family: str) -> Split:
    """How models of one family are cut above an edit here; mode "full" where they cannot be.

    The random state of the process is as before afterwards.
    """
    name, options = FAMILIES[family]
    config = getattr(transformers, name)(**options, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    rows = [Encoded(tuple(range(2, 2 + n)), (5, 6), n - 2) for n in (9, 14)]
    batch = collate(rows, _NoTokenizer(), side="left")
    return Suffix(model, find_layout(model), batch, 1, start=int(batch.key_index.min())).split


def describe_splits() -> tuple[list[str], list[str]]:
    """Families that are edited fast, and those of which every step is a whole forward pass."""
    found = {family: split_of(family) for family in FAMILIES}
    fast = [family for family, split in found.items() if split.mode != "full" and split.prefix]
    return fast, [family for family in found if family not in fast]
