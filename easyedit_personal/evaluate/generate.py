"""Greedy generation to the natural stop: batched, KV-cached, padded on the left by us.

Our own loop and not ``model.generate``: on a model of 3 M parameters the library's bookkeeping costs as much as the
forward pass itself. A test holds the two to the same tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RequestError
from ..modeling.layout import input_device
from ..modeling.tokens import Encoded, Messages, PromptFormat, collate, encode, stop_ids

MAX_NEW_TOKENS = 48  # the longest target of UPQA has 12 words; an answer that needs more has gone astray
BATCH_TOKENS = 8192  # prompt tokens, padding included, of one batch
SHARED_PREFIX = 24  # a common beginning of that many tokens is worth a forward pass of its own

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
) -> list[Answer]:
    """Answer prompts, each a user's text or a conversation that ends with the user's turn.

    Rows are packed by length; a beginning that all rows of a pack share (the same turns before different questions)
    is computed once.

    Args:
        max_new_tokens: one limit, or one per prompt; what is cut there is reported as not ``stopped``.
        batch_tokens: upper limit of a pack's prompt tokens, padding included.

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
    answers: dict[int, Answer] = {}
    for pack in packs(rows, batch_tokens):
        outs = _greedy(model, tokenizer, [rows[i] for i in pack], [limits[i] for i in pack], ends)
        answers.update((i, _answer(tokenizer, out, ends)) for i, out in zip(pack, outs))
    return [answers[i] for i in range(len(rows))]


def encode_prompt(
    tokenizer: Any, prompt: Prompt, prompt_format: PromptFormat = "auto", target: str | None = None
) -> Encoded:
    """A prompt or conversation as token ids, with the answer to be held against it if there is one (no end token)."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not prompt or prompt[-1].get("role") != "user":
        raise RequestError("A conversation must end with the user's turn.", got=list(prompt)[-1:])
    text, history = prompt[-1]["content"], prompt[:-1]
    return encode(tokenizer, text, target=target, history=history, prompt_format=prompt_format, end_of_turn=False)


def context_limit(model: nn.Module) -> int | None:
    """The model's context in tokens, or None where its configuration does not say."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


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
    """Indices of rows that are computed together: sorted by length, and by content among equal lengths."""
    order = sorted(range(len(rows)), key=lambda i: (_family(rows[i]), len(rows[i].ids)))
    pack: list[int] = []
    width = 0
    for i in order:
        wider = max(width, len(rows[i].ids))
        new_family = pack and _family(rows[i]) != _family(rows[pack[0]])
        if pack and (new_family or wider * (len(pack) + 1) > batch_tokens):
            yield pack
            pack, wider = [], len(rows[i].ids)
        pack.append(i)
        width = wider
    if pack:
        yield pack


def _family(row: Encoded) -> tuple[int, ...]:
    """Long conversations are packed with those that begin alike; short prompts all go together."""
    length = len(row.ids) // (2 * SHARED_PREFIX) * SHARED_PREFIX
    return row.ids[:length] if length >= 4 * SHARED_PREFIX else ()


@torch.no_grad()
def _greedy(
    model: nn.Module, tokenizer: Any, rows: Sequence[Encoded], limits: Sequence[int], ends: frozenset[int]
) -> list[list[int]]:
    """The most likely continuation of every row, its end token included where it came."""
    device = input_device(model)
    shared = _shared_prefix(model, rows)
    cache, mask = _prefill_shared(model, rows, shared, device)
    tails = [Encoded(row.ids[shared:], (), 0) for row in rows]
    batch = collate(tails, tokenizer, side="left", device=device)
    mask = torch.cat([mask, batch.attention_mask], 1)
    inputs, positions = batch.input_ids, batch.position_ids + shared
    outs: list[list[int]] = [[] for _ in rows]
    done: set[int] = set()
    alive = list(range(len(rows)))
    while True:
        output = _forward(model, inputs, mask, positions, cache)
        cache = output.past_key_values
        tokens = output.logits[:, -1].argmax(-1)
        for i, token in zip(alive, tokens.tolist()):
            if i not in done:
                outs[i].append(token)
                if token in ends or len(outs[i]) >= limits[i]:
                    done.add(i)
        keep = [k for k, i in enumerate(alive) if i not in done]
        if not keep:
            return outs
        if len(keep) <= len(alive) // 2:  # a finished row costs as much as others, copying the cache costs too
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            tokens, mask, positions = tokens[index], mask[index], positions[index]
            alive = [alive[k] for k in keep]
        inputs = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
        positions = positions[:, -1:] + 1


def _forward(model: nn.Module, inputs: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Any:
    options: dict[str, Any] = {"logits_to_keep": 1} if _keeps_last_logits(type(model)) else {}
    return model(
        input_ids=inputs,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        **options,
    )


_KEEPS: dict[type, bool] = {}


def _keeps_last_logits(kind: type[nn.Module]) -> bool:
    """Whether the model can skip the logits of all positions but the last."""
    if kind not in _KEEPS:
        _KEEPS[kind] = "logits_to_keep" in inspect.signature(kind.forward).parameters
    return _KEEPS[kind]


def _shared_prefix(model: nn.Module, rows: Sequence[Encoded]) -> int:
    """Number of tokens with which all rows begin, if that is worth computing once; every row keeps one of its own."""
    if len(rows) < 2 or getattr(getattr(model, "config", None), "sliding_window", None):
        return 0  # a sliding window counts the padding between prefix and tail as distance
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    limit = min(len(row.ids) for row in rows) - 1
    length = next((k for k in range(limit) if first[k] != last[k]), limit)
    return length if length >= SHARED_PREFIX else 0


def _prefill_shared(model: nn.Module, rows: Sequence[Encoded], shared: int, device: torch.device) -> tuple[Any, Tensor]:
    """The cache of the shared beginning, repeated for every row, and its mask [n, shared]."""
    mask = torch.ones((len(rows), shared), dtype=torch.long, device=device)
    if not shared:
        return None, mask
    ids = torch.tensor([rows[0].ids[:shared]], device=device)
    cache = _forward(model, ids, mask[:1], torch.arange(shared, device=device)[None], None).past_key_values
    cache.batch_repeat_interleave(len(rows))
    return cache, mask


def _answer(tokenizer: Any, out: Sequence[int], ends: frozenset[int]) -> Answer:
    stopped = bool(out) and out[-1] in ends
    tokens = tuple(out[:-1] if stopped else out)
    return Answer(decode(tokenizer, tokens), tokens, stopped)


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Token ids as text, without special tokens and surrounding blanks."""
    return tokenizer.decode(list(tokens), skip_special_tokens=True).strip()
