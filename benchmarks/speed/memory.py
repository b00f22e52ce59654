"""What an edit needs beside the weights: measured for a loaded model in this process, and counted for other shapes.

The count is on paper, from the shapes of what is held (``needs``); ``counted_here`` is the same for the model that was
measured. Weights of 8 B parameters are counted on device "meta": nothing is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from easyedit_personal.cli.session import find_settings
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.evaluate.memory import peak_mib, reset_peak
from easyedit_personal.kernels.ground_numbers import KEPT_KEYS
from easyedit_personal.kernels.packing import SAVED, SAVED_MLP
from easyedit_personal.modeling.read_once import TOKENS

from .machine import resident_mib, tidy
from .options import Options
from .pairs import spread
from .shapes import model_of
from .users import people

MIB = 2**20
LLAMA3_8B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
# An edit's rows and columns: phrases, columns of their answers and of the longest prompt; texts of the health check.
PHRASES, ANSWER, PROMPT, TEXTS, TEXT, LOOKED_AT = 16, 14, 150, 36, 60, 600


def memory(options: Options) -> dict[str, Any]:
    """Peaks of a first edit (which reads what later ones share) and of two more; ``ratio`` is peak over weights."""
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams = find_settings(options.model, options.hparams, "lowrank", options.device)
    weights, peaks = _bytes(model) / MIB, []
    for one in people(3):
        tidy()
        before = resident_mib()
        reset_peak()
        personalize(model, tokenizer, one, hparams)
        peaks.append(round(peak_mib(model) - before, 1))
    with torch.device("meta"):
        large = transformers.AutoModelForCausalLM.from_config(
            transformers.LlamaConfig(**LLAMA3_8B), dtype=torch.bfloat16
        )
    return {
        "case": options.case,
        "ratio": spread([peak / weights for peak in peaks]),
        "ours": {"peak_mib_above_weights": peaks, "counted_here": needs(model, hparams.layers[0])},
        "theirs": {"weights_mib": round(weights, 1)},
        "llama3_8b": {"weights_mib": round(_bytes(large) / MIB, 1), "counted": needs(large, 29)},
        "difference": None,
        "model": options.model,
    }


def needs(model: nn.Module, layer: int) -> dict[str, float]:
    """MiB of what an edit holds at its highest, for a model of the Llama family and an edited layer."""
    config: Any = model.config
    d, mlp, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    above, size = config.num_hidden_layers - 1 - layer, next(model.parameters()).element_size()
    heads = 2 * d // config.num_attention_heads * config.num_key_value_heads
    states = (mlp * size + 4 * d * 4) * (PHRASES * ANSWER + TEXTS * TEXT)
    found = {
        "metric and Fisher information": (mlp**2 + d**2) * 4,
        "stored keys": (3 * KEPT_KEYS + KEPT_KEYS // 2) * mlp * 4,
        "keys and values while prompts are read": TOKENS * heads * config.num_hidden_layers * size,
        "states of phrases and of the health check's texts": states + PHRASES * PROMPT * heads * above * size,
        "one step": PHRASES // 2 * ANSWER * above * (SAVED * d + SAVED_MLP * mlp) * 4,
        "logits of the health check": 2 * LOOKED_AT * vocab * 4,
    }
    return {
        **{name: round(value / MIB, 1) for name, value in found.items()},
        "sum": round(sum(found.values()) / MIB, 1),
    }


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
