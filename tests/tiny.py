"""Tiny random models of every supported architecture, and a tokenizer trained on a few lines, all in memory."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LINES = [
    "What's my hobby? My hobby is hiking in the hills.",
    "What is my favourite food? I would say noodles with pepper.",
    "Who is your doctor and where do they live? In a small town by the sea.",
    "I do not know. Tell me more about the music, the job and the pet that you like best.",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]

SMALL = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
GPT = {"vocab_size": 400, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}

# Families of which a norm follows the MLP, by our names here and by model_type.
POST_NORM = ("gemma2", "gemma3", "gemma3_text", "olmo2")
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SMALL, **HEADS}),
    "llama-square": ("LlamaConfig", {**SMALL, **HEADS, "intermediate_size": 32}),
    "mistral": ("MistralConfig", {**SMALL, **HEADS, "sliding_window": 16}),
    "qwen2": ("Qwen2Config", {**SMALL, **HEADS}),
    "qwen3": ("Qwen3Config", {**SMALL, **HEADS, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**SMALL, **HEADS, "head_dim": 8, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", {**SMALL, **HEADS, "head_dim": 8, "sliding_window": 16}),
    "olmo2": ("Olmo2Config", {**SMALL, **HEADS}),
    "gpt2": ("GPT2Config", GPT),
    "gpt2-square": ("GPT2Config", {**GPT, "n_inner": 32}),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 8}),
}


@cache
def tiny_tokenizer(chat: bool = True) -> Any:
    """Byte-level BPE of 400 tokens; with ``chat=False`` without a chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=SPECIALS[2:]
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """A random model of one architecture, in evaluation mode; the same weights for the same seed."""
    name, options = FAMILIES[family]
    config = getattr(transformers, name)(**{**options, **changes}, pad_token_id=0, eos_token_id=1, bos_token_id=None)
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
