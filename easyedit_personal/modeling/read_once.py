"""The columns before those that change, as keys and values: what rows have in common is read once.

First what all rows begin with (a chat template's system turn), then every different prompt, however many rows go on
from it; prompts of about one length together, since padding costs as much as tokens do. In a causal model the keys and
values of a beginning depend on nothing that follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from .tokens import Batch
from .trace import trace

SetRows = Callable[[Sequence[int]], None]
Layers = list[tuple[Tensor, Tensor]]  # every layer's keys and values
TOKENS = 2048  # rows x columns whose keys and values are held for all layers at a time
PASS = 256  # tokens that a pass of their own must save: it reads all weights once more


def read_before(
    model: nn.Module, batch: Batch, start: int, last: str, set_rows: SetRows, owners: Sequence[Hashable]
) -> Iterator[tuple[list[int], DynamicCache]]:
    """Some of the rows at a time, with the keys and values of their columns before ``start``.

    Args:
        model: a causal model.
        batch: the rows, padded on the left or inside.
        last: path of the last decoder layer; nothing above it is run.
        set_rows: called before every pass with the numbers of the rows that it reads.
        owners: by row; only rows of one owner are alike.
    """
    ids, mask = batch.input_ids[:, :start], batch.attention_mask[:, :start]
    shared = int(((ids == ids[:1]) & mask.bool()).all(0).long().cumprod(0).sum())
    begins, begun = _sorts(ids[:, :shared], mask[:, :shared], owners)
    lengths = mask[:, shared:].sum(1).tolist()
    all_prompts, sorts = _sorts(ids, mask, owners)
    beginning: Layers = []
    if (len(all_prompts) - len(begins)) * shared >= PASS:
        beginning = _read(model, last, batch, begins, range(shared), [], set_rows)
    for rows in _parts(lengths, sorts, start):
        prompts, groups = _sorts(ids[rows], mask[rows], [owners[row] for row in rows])
        prompts = [rows[place] for place in prompts]
        longest = max(0 if shared else 1, *(lengths[row] for row in rows))  # a cache needs some column
        found, first = _rows(beginning, [begun[row] for row in prompts]), start - longest
        if first < start or not beginning:
            columns = [*range(shared), *range(first, start)]
            found = _read(model, last, batch, prompts, columns, found, set_rows)
        gap = (0, 0, first - shared, 0)  # columns in which all these rows have padding
        padded = [
            tuple(torch.cat([part[..., :shared, :], F.pad(part[..., shared:, :], gap)], -2) for part in layer)
            for layer in _rows(found, groups)
        ]
        yield rows, _cache(padded)


def forward(
    model: nn.Module, batch: Batch, columns: Sequence[int], first: int, cache: DynamicCache | None = None
) -> None:
    """Read those of the columns that stand behind the first ``first`` of them, which are in the cache."""
    place = torch.tensor(list(columns), device=batch.input_ids.device)
    options: dict[str, Any] = {"use_cache": False}
    if cache is not None:
        options = {"use_cache": True, "past_key_values": cache}
    model(
        input_ids=batch.input_ids[:, place[first:]],
        attention_mask=batch.attention_mask[:, place],
        position_ids=batch.position_ids[:, place[first:]],
        **options,
    )


def _read(
    model: nn.Module,
    last: str,
    batch: Batch,
    rows: Sequence[int],
    columns: Sequence[int],
    before: Layers,
    set_rows: SetRows,
) -> Layers:
    """The rows' keys and values at these columns, those of the first ones given."""
    cache, first = _cache(before), before[0][0].shape[-2] if before else 0
    set_rows(rows)
    with torch.no_grad(), trace(model, [last], stop=True):
        forward(model, batch.select(rows), columns, first, cache)
    layers: Any = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def _cache(layers: Sequence[Any]) -> DynamicCache:
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def _rows(layers: Layers, rows: Sequence[int]) -> Layers:
    return [(keys[rows], values[rows]) for keys, values in layers]


def _parts(lengths: Sequence[int], sorts: Sequence[int], start: int) -> Iterator[list[int]]:
    """Rows of about one length together, equal ones side by side; few enough for their keys and values to be held."""
    part: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], sorts[row])):
        padding = sum(lengths[row] - lengths[other] for other in part)
        if part and (padding >= PASS or (len(part) + 1) * start > TOKENS):
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _sorts(ids: Tensor, mask: Tensor, owners: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """One row of each sort (the same tokens, the same owner), and for every row the number of its sort."""
    found: dict[Hashable, int] = {}
    chosen: list[int] = []
    groups: list[int] = []
    for row, (tokens, owner) in enumerate(zip((ids * mask + mask - 1).tolist(), owners)):
        groups.append(found.setdefault((owner, *tokens), len(found)))
        if len(found) > len(chosen):
            chosen.append(row)
    return chosen, groups
