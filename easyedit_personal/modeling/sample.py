"""Text that a model writes by itself, from a seed: material for statistics and contexts where no corpus is at hand.

The random state of the process is as before afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from .layout import input_device
from .tokens import MARK, Encoded, collate, pad_token_id, render, uses_chat


def opening(tokenizer: Any) -> Encoded:
    """What stands before a user's first word: the chat template up to there, else the beginning-of-text token.

    A chat model continues it with a question and an answer of its own (the trick of Magpie, arXiv 2406.08464), a
    base model with any text of its training's kind.
    """
    if uses_chat(tokenizer):
        text = render(tokenizer, [{"role": "user", "content": MARK}]).partition(MARK)[0]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids:
            return Encoded(tuple(ids), (), len(ids) - 1)
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, pad_token_id(tokenizer)):
        if token is not None:
            return Encoded((int(token),), (), 0)
    raise AssertionError("pad_token_id always gives a token")


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    starts: Sequence[Encoded],
    tokens: int,
    *,
    seed: int,
    top_k: int = 0,
    batch_size: int = 64,
) -> Iterator[list[int]]:
    """Continue every start by ``tokens`` sampled tokens; turns may end and begin anew in between.

    Args:
        model: a causal language model that can ``generate``.
        starts: the beginnings; equal ones give different continuations.
        tokens: how many tokens to add.
        seed: the same seed gives the same texts on the same machine.
        top_k: sample from the k likeliest tokens only; 0 samples from all.

    Yields:
        Token ids, the start's included, one list per start.
    """
    devices = [input_device(model)] if input_device(model).type == "cuda" else []
    # What is left open here would be filled in from the model's own generation settings; no id beyond the vocabulary
    # is ever drawn, so nothing ends a text early.
    settings = GenerationConfig(
        **{"do_sample": True, "top_k": top_k, "temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0},
        **{"max_new_tokens": tokens, "pad_token_id": pad_token_id(tokenizer), "eos_token_id": [_vocabulary(model)]},
    )
    for number, first in enumerate(range(0, len(starts), batch_size)):
        batch = collate(starts[first : first + batch_size], tokenizer, side="left", device=input_device(model))
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed + number)
            ids = model.generate(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=settings
            )
        for row, start in zip(ids.tolist(), starts[first : first + batch_size]):
            yield row[len(row) - tokens - len(start.ids) :]


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
