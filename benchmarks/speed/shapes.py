"""Models of known shapes with random weights, or one that is loaded, and requests to edit them with.

Time and memory depend on shapes, not on what a model knows. Random ones read the tokenizer of the tests' small model.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers

from easyedit_personal.cli.session import find_settings
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.types import EditRequest
from tests import tiny_model

GPT2_SMALL: dict[str, Any] = {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
LLAMA_160M: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 2048,
}
# EasyEdit's 17 of 48 (gpt2-xl.yaml) and 5 of 32 (llama3-8b.yaml) in proportion.
EDITED_LAYER = {"gpt2": 4, "llama": 2}
EOS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
PEOPLE = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ines", "Jon"]
# Values of two or three tokens in the small model's vocabulary; GPT-2's would need about as many.
THINGS = {
    "hobby": "baking",
    "job": "teacher",
    "pet": "a small dog",
    "drink": "green tea",
    "color": "dark green",
    "season": "winter",
    "music": "rock music",
    "sport": "running",
    "coffee": "black coffee",
    "pastime": "bird watching",
}
TEXT = """The harbour was quiet when the first boats came in. Because the wind had turned in the night, nobody had
expected them before noon, and the market stood half empty. You could hear the ropes knock against the masts, and now
and then a gull. I walked along the wall to where the old men mend their nets, and asked one of them about the weather.
Therefore, he said, you should not ask me but my knees. The others laughed. Later the sun came out, the stalls filled
with fish and bread and flowers, and by the afternoon there was hardly a place left to sit down and drink a coffee.
A ship from the north had brought timber, and two men argued about its price until the harbour master came."""


@cache
def model_of(shape: str, device: str = "cpu", layers: int | None = None, hparams: str | None = None) -> tuple[Any, Any]:
    """A model and its tokenizer.

    Args:
        shape: "gpt2" (GPT-2 small, 124 M parameters) or "llama" (162 M), both random, or a model to load.
        device: where it is put.
        layers: another depth than the random shape's own.
        hparams: a YAML file for the model to load; None takes that of its name.
    """
    if shape not in EDITED_LAYER:
        return load_model(find_settings(shape, hparams, None, device))
    _, tokenizer = tiny_model.load()
    torch.manual_seed(0)
    if shape == "gpt2":
        config: Any = transformers.GPT2Config(**{**GPT2_SMALL, **EOS, **({"n_layer": layers} if layers else {})})
    else:
        deep: dict[str, Any] = {"num_hidden_layers": layers} if layers else {}
        config = transformers.LlamaConfig(**{**LLAMA_160M, **EOS, **deep})
    return transformers.AutoModelForCausalLM.from_config(config).to(device).eval(), tokenizer


def edited_layers(shape: str, kernel: str, hparams: str | None = None) -> list[int]:
    """Where "rome" or "memit" edits: EasyEdit's layers in proportion, or those of a loaded model's settings."""
    if shape not in EDITED_LAYER:
        return find_settings(shape, hparams, kernel, "cpu").layers
    layer = EDITED_LAYER[shape]
    return [layer] if kernel == "rome" else list(range(layer - 1, layer + 4))


def requests(count: int) -> list[EditRequest]:
    """Requests that stand alone, up to 100 different prompts."""
    triples = [(person, thing, value) for thing, value in THINGS.items() for person in PEOPLE]
    return [
        EditRequest(f"What's {person}'s {thing}?", value, f"{person}'s {thing}")
        for person, thing, value in triples[:count]
    ]


def cluster(size: int) -> list[EditRequest]:
    """One preference in several phrases."""
    names = ["hobby", "pastime", "leisure activity", "interest", "pursuit", "diversion", "free-time activity"]
    names += ["favorite activity", "recreation"]
    return [EditRequest(f"What is my {name}?", "bird watching", name, cluster="hobby") for name in names[:size]]


def contexts(tokenizer: Any) -> list[str]:
    """EasyEdit's shipped setting, ``[[5, 10], [10, 10]]``: ten beginnings of 5 tokens and ten of 10 before the prompt.

    Cut from a written text: a model with random weights would write noise.
    """
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    windows = [ids[10 * i : 10 * i + 5 * (1 + i % 2)] for i in range(20)]  # 200 of its tokens
    beginnings = [tokenizer.decode(window).strip() for window in sorted(windows, key=len)]
    return ["{}", *(f"{beginning}. {{}}" for beginning in beginnings)]
