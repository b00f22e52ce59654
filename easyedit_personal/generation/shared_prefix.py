"""What many rows begin with runs once: a chat template's system turn, the same turns before different questions.

In a causal model the keys and values of a beginning depend on nothing that follows it. Exact, but for the order in
which products of other shapes are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import groupby
from typing import Any, Literal

import torch
from torch import nn

from ..modeling.tokens import Batch, Encoded, collate

SAVED = 64  # tokens that a pass of its own over a beginning must save
DEEPEST = 100  # forks on the way to one row: conversations have as many as turns


def slides(model: nn.Module) -> bool:
    """Whether a sliding window counts columns: padding between beginning and rest would count as distance."""
    config: Any = getattr(model, "config", None)
    kinds = getattr(config, "layer_types", None) or ()
    return bool(getattr(config, "sliding_window", None)) or any("sliding" in kind for kind in kinds)


def shared_length(model: nn.Module, rows: Sequence[Encoded]) -> int:
    """Number of tokens with which all rows begin, 0 if reading them once saves too little.

    Every row keeps a token of its own: its last one is never part of what is shared.
    """
    if len(rows) < 2 or slides(model):
        return 0
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    length = min(_common(first, last), min(len(row.ids) for row in rows) - 1)
    return length if length * (len(rows) - 1) >= SAVED else 0


def families(rows: Sequence[Encoded]) -> tuple[list[list[int]], list[int]]:
    """Indices of rows that share a beginning worth reading once, each with those it shares most with; and the rest.

    After the same two turns come a question in some rows and more turns in others: the questions are one family, what
    shares enough more is another.
    """
    return _families(sorted(range(len(rows)), key=lambda i: rows[i].ids), rows, 0, 0)


def _families(
    order: Sequence[int], rows: Sequence[Encoded], above: int, depth: int
) -> tuple[list[list[int]], list[int]]:
    """As ``families``, of the rows in ``order`` (sorted by their tokens); those around them share ``above`` tokens."""
    shared = _common(rows[order[0]].ids, rows[order[-1]].ids) if order else 0
    begins = (shared - above) * len(order) - shared >= SAVED
    found: list[list[int]] = []
    own: list[int] = []
    for token, run in groupby(order, key=lambda i: rows[i].ids[shared : shared + 1]):
        part = list(run)
        if len(part) > 1 and token and depth < DEEPEST:
            deeper, part = _families(part, rows, shared if begins else above, depth + 1)
            found += deeper
        own += part
    return ([*found, own], []) if begins and len(own) > 1 else (found, own)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens that two rows begin with, and with them all rows between them in sorted order."""
    limit = min(len(one), len(other))
    return next((k for k in range(limit) if one[k] != other[k]), limit)


def without_beginning(row: Encoded, shared: int) -> Encoded:
    """The row from its first own token on; its key must not stand before."""
    return Encoded(row.prompt_ids[shared:], row.target_ids, row.key_index - shared)


def inputs_after(
    tokenizer: Any,
    rows: Sequence[Encoded],
    shared: int,
    cache: Any,
    device: Any,
    side: Literal["left", "right"] = "right",
) -> tuple[Batch, dict[str, Any]]:
    """A batch of what the rows have of their own, and the model's arguments for it behind ``cache``.

    Args:
        shared: number of tokens that ``cache`` holds.
        cache: the beginning's keys and values, of one row or already of as many as there are rows; left as it is.
            None where nothing is shared.
        side: on which the rows are padded.
    """
    batch = collate([without_beginning(row, shared) for row in rows], tokenizer, side=side, device=device)
    if cache is None:
        return batch, {**batch.model_inputs(), "past_key_values": None}
    before = batch.attention_mask.new_ones(len(rows), shared)
    mask = torch.cat([before, batch.attention_mask], 1)
    inputs = {"input_ids": batch.input_ids, "attention_mask": mask, "position_ids": batch.position_ids + shared}
    return batch, {**inputs, "past_key_values": _of_rows(cache, len(rows))}


def _of_rows(cache: Any, n: int) -> Any:
    """The cache with n rows, the given one left as it is; of the same type, which may keep more than keys and values.

    Layers that have n rows already stay so: above an edited layer, every user's are their own.
    """
    own = copy(cache)
    own.layers = [copy(layer) for layer in cache.layers]
    for layer in own.layers:
        if layer.keys.shape[0] == 1:
            layer.batch_repeat_interleave(n)
    return own
