"""The columns before those that change, as keys and values: what rows have in common is read once.

First what all rows begin with (a chat template's system turn), then every different prompt, however many rows go on
from it. In a causal model the keys and values of a beginning depend on nothing that follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .tokens import Batch
from .trace import trace

SetRows = Callable[[Sequence[int]], None]


def read_before(
    model: nn.Module, batch: Batch, start: int, last: str, set_rows: SetRows, owners: Sequence[Hashable]
) -> DynamicCache:
    """Keys and values of every row's columns before ``start``.

    Args:
        model: a causal model.
        batch: the rows.
        last: path of the last decoder layer; nothing above it is run.
        set_rows: called before every pass with the numbers of the rows that it reads.
        owners: by row; only rows of one owner are alike.
    """
    ids, mask = batch.input_ids, batch.attention_mask
    alike = ((ids == ids[:1]) & mask.bool()).all(0)[:start]
    shared = int(alike.long().cumprod(0).sum())
    cache, groups = DynamicCache(), [0] * len(ids)
    for first, stop in pairwise(sorted({0, shared, start})):
        before, (chosen, groups) = groups, _sorts(ids[:, :stop], mask[:, :stop], owners)
        if first:
            cache.batch_select_indices(torch.tensor([before[row] for row in chosen], device=ids.device))
        set_rows(chosen)
        with torch.no_grad(), trace(model, [last], stop=True):
            forward(model, batch.select(chosen), first, stop, cache)
    cache.batch_select_indices(torch.tensor(groups, device=ids.device))
    return cache


def forward(model: nn.Module, batch: Batch, first: int, stop: int, cache: DynamicCache | None) -> None:
    """Read the columns from ``first`` up to ``stop``, behind those in the cache."""
    options: dict[str, Any] = {"use_cache": False}
    if cache is not None:
        options = {"use_cache": True, "past_key_values": cache}
    model(
        input_ids=batch.input_ids[:, first:stop],
        attention_mask=batch.attention_mask[:, :stop],
        position_ids=batch.position_ids[:, first:stop],
        **options,
    )


def _sorts(ids: Tensor, mask: Tensor, owners: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """One row of each sort (the same tokens, the same owner), and for every row the number of its sort."""
    found: dict[Hashable, int] = {}
    chosen, groups = [], []
    for row, (tokens, owner) in enumerate(zip((ids * mask + mask - 1).tolist(), owners)):
        groups.append(found.setdefault((owner, *tokens), len(found)))
        if len(found) > len(chosen):
            chosen.append(row)
    return chosen, groups
