"""An answer piece by piece: one forward pass per token, text handed out as soon as it is certain.

A piece is certain when its bytes are whole (a character may take several tokens) and no later token can strip it:
``generate`` strips blanks at both ends, so blanks wait for a word to follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..errors import RequestError
from ..evaluate.generate import Prompt, check_fits, decode, encode_prompt
from ..evaluate.greedy import forward
from ..modeling.layout import input_device
from ..modeling.tokens import Encoded, PromptFormat, stop_ids

Turn = Callable[[], AbstractContextManager[Any]]
BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are no character yet


def stream(
    model: nn.Module,
    tokenizer: Any,
    prompt: Prompt,
    turn: Turn,
    *,
    prompt_format: PromptFormat = "auto",
    max_new_tokens: int,
) -> Iterator[str]:
    """Check and encode a prompt now, then give its greedy answer piece by piece.

    Args:
        turn: makes a context in which the model may be used; entered for each token anew, left while the caller has
            the piece.

    Raises:
        RequestError: the prompt is empty, does not end with the user's turn or does not fit the context.
    """
    if max_new_tokens < 1:
        raise RequestError("max_new_tokens must be positive.", got=max_new_tokens)
    with turn():
        row = encode_prompt(tokenizer, prompt, prompt_format)
        check_fits(model, row, max_new_tokens)
        ends = frozenset(stop_ids(model, tokenizer))
    return _pieces(tokenizer, _tokens(model, row, turn, ends, max_new_tokens), turn)


def _tokens(model: nn.Module, row: Encoded, turn: Turn, ends: frozenset[int], limit: int) -> Iterator[int]:
    """The answer's tokens, without the one that ends it."""
    device = input_device(model)
    ids = torch.tensor([row.ids], device=device)
    positions = torch.arange(ids.shape[1], device=device)[None]
    cache = None
    for _ in range(limit):
        with turn(), torch.no_grad():
            mask = torch.ones(1, int(positions[0, -1]) + 1, dtype=torch.long, device=device)
            output = forward(model, ids, mask, positions, cache)
            token = int(output.logits[0, -1].argmax())
        if token in ends:
            return
        yield token
        cache, positions = output.past_key_values, positions[:, -1:] + 1
        ids = torch.tensor([[token]], device=device)


def _pieces(tokenizer: Any, tokens: Iterator[int], turn: Turn) -> Iterator[str]:
    said = ""
    seen: list[int] = []
    for token in tokens:
        seen.append(token)
        with turn():  # a fast tokenizer cannot be used by two threads at once
            text = decode(tokenizer, seen)
        if text.startswith(said) and len(text) > len(said) and not text.endswith(BROKEN):
            yield text[len(said) :]
            said = text
    if seen:
        with turn():
            text = decode(tokenizer, seen)
        if text.startswith(said) and text != said:  # bytes that never became a character
            yield text[len(said) :]
