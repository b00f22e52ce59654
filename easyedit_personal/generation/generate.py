"""Greedy generation to the natural stop: batched, KV-cached, padded on the left by us.

Our own loop and not ``model.generate``: on a model of 3 M parameters the library's bookkeeping costs as much as the
forward pass itself. A test holds the two to the same tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import RequestError
from ..modeling.layout import context_limit
from ..modeling.memory import in_halves
from ..modeling.tokens import Encoded, Messages, PromptFormat, encode, stop_ids
from .greedy import SetRows, continue_all
from .shared_prefix import families

MAX_NEW_TOKENS = 48  # the longest target of UPQA has 12 words; an answer that needs more has gone astray
BATCH_TOKENS = 8192  # prompt tokens, padding included, of one batch
ALIKE = 24  # tokens by which rows may differ that are packed together, beyond twice the shortest

Prompt = str | Messages


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes:
        text: the answer without special tokens, stripped.
        tokens: its token ids, without the token that ended it.
        stopped: whether it ended by itself; False means that the limit cut it.
    """

    text: str
    tokens: tuple[int, ...]
    stopped: bool


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    prompt_format: PromptFormat = "auto",
    max_new_tokens: int | Sequence[int] = MAX_NEW_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
    owners: Sequence[Hashable] | None = None,
    set_rows: SetRows | None = None,
) -> list[Answer]:
    """Answer prompts, each a user's text or a conversation that ends with the user's turn.

    Rows are packed by length; a beginning that all rows of a pack share (the same turns before different questions)
    is computed once.

    Args:
        max_new_tokens: one limit, or one per prompt; what is cut there is reported as not ``stopped``.
        batch_tokens: upper limit of a pack's prompt tokens, padding included.
        owners, set_rows: for batches of many users' models, see ``greedy.continue_all``.

    Returns:
        One answer per prompt, in the order given.

    Raises:
        RequestError: a prompt is empty, or a conversation does not fit the model's context (nothing is cut silently).
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    rows = [encode_prompt(tokenizer, prompt, prompt_format) for prompt in prompts]
    for number, (row, limit) in enumerate(zip(rows, limits)):
        check_fits(model, row, limit, number)
    ends = frozenset(stop_ids(model, tokenizer))
    outs = continuations(model, tokenizer, rows, limits, batch_tokens=batch_tokens, owners=owners, set_rows=set_rows)
    return [_answer(tokenizer, out, ends) for out in outs]


def continuations(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[Encoded],
    limits: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    owners: Sequence[Hashable] | None = None,
    set_rows: SetRows | None = None,
) -> list[list[int]]:
    """As ``generate``, from token ids to token ids, the end token included where it came; nothing is checked."""
    if not rows:
        return []
    ends = frozenset(stop_ids(model, tokenizer))

    def write(order: Sequence[int]) -> dict[int, list[int]]:
        chosen = [[order[k] for k in pack] for pack in packs([rows[i] for i in order], batch_tokens)]
        outs = continue_all(model, tokenizer, rows, chosen, limits, ends, owners, set_rows)
        return {i: outs[i] for i in order}

    # By length, so that halves that fit the memory are packed as the whole would be.
    order = [i for pack in packs(rows, batch_tokens) for i in pack]
    outs = {i: out for part in in_halves(write, order, "prompts", model) for i, out in part.items()}
    return [outs[i] for i in range(len(rows))]


def encode_prompt(
    tokenizer: Any, prompt: Prompt, prompt_format: PromptFormat = "auto", target: str | None = None
) -> Encoded:
    """A prompt or conversation as token ids, with the answer to be held against it if there is one (no end token)."""
    turns: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(turns, Sequence) or not all(isinstance(message, Mapping) for message in turns):
        raise RequestError(
            "This is neither a text nor a conversation.", got=prompt, needed='[{"role": ..., "content": text}, ...]'
        )
    if not turns or turns[-1].get("role") != "user":
        raise RequestError("A conversation must end with the user's turn.", got=list(turns)[-1:])
    text, history = turns[-1].get("content"), turns[:-1]
    return encode(tokenizer, text, target=target, history=history, prompt_format=prompt_format, end_of_turn=False)


def check_fits(model: nn.Module, row: Encoded, max_new_tokens: int, number: int = 0) -> None:
    """Raise unless the prompt and its longest answer fit the model's context."""
    limit = context_limit(model)
    if limit is not None and len(row.ids) + max_new_tokens > limit:
        raise RequestError(
            f"Prompt {number} does not fit the model's context.",
            got=f"{len(row.ids)} tokens and up to {max_new_tokens} of the answer",
            needed=f"at most {limit} tokens",
            remedy="ask with fewer turns in between, or lower max_new_tokens",
        )


def packs(rows: Sequence[Encoded], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows that are computed together: those that begin alike, the others by length."""
    found, loose = families(rows)
    for family in [*found, loose]:
        pack: list[int] = []
        for i in sorted(family, key=lambda i: len(rows[i].ids)):
            width = len(rows[i].ids)
            longer = pack and family is loose and width > 2 * len(rows[pack[0]].ids) + ALIKE
            if pack and (longer or width * (len(pack) + 1) > batch_tokens):
                yield pack
                pack = []
            pack.append(i)
        if pack:
            yield pack


def _answer(tokenizer: Any, out: Sequence[int], ends: frozenset[int]) -> Answer:
    stopped = bool(out) and out[-1] in ends
    tokens = tuple(out[:-1] if stopped else out)
    return Answer(decode(tokenizer, tokens), tokens, stopped)


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Token ids as text, without special tokens and surrounding blanks."""
    return tokenizer.decode(list(tokens), skip_special_tokens=True).strip()
