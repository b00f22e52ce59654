"""What many rows begin with runs once: the same contexts stand before everybody's prompts.

In a causal model the keys and values of a beginning depend on nothing that follows it. Exact, but for the order in
which products of other shapes are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..modeling.tokens import Batch, Encoded, collate

SHORTEST = 4  # tokens of a beginning that is worth a pass of its own
SAVED = 256  # tokens that a group must save, or it is read with the others


def slides(model: nn.Module) -> bool:
    """Whether a sliding window counts columns: padding between beginning and rest would count as distance."""
    config: Any = getattr(model, "config", None)
    kinds = getattr(config, "layer_types", None) or ()
    return bool(getattr(config, "sliding_window", None)) or any("sliding" in kind for kind in kinds)


def by_beginning(model: nn.Module, rows: Sequence[Encoded]) -> list[tuple[int, list[Encoded]]]:
    """Rows in groups, each with the number of tokens that all its rows begin with; 0 for rows that share too few.

    Every row keeps a token of its own: its last one is never part of what is shared.
    """
    if slides(model):
        return [(0, list(rows))]
    groups: list[tuple[int, list[Encoded]]] = []
    most = 0  # what the first two rows of the group at work share
    for row in sorted(rows, key=lambda row: row.ids):
        shared, group = groups[-1] if groups else (0, [])
        common = _common(group[0], row) if group else 0
        if len(group) == 1:
            shared = most = common
        if group and common >= max(SHORTEST, most / 2):
            groups[-1] = (min(shared, common), [*group, row])
        else:
            groups.append((0, [row]))
    worth = [group for group in groups if group[0] * (len(group[1]) - 1) >= SAVED]
    others = {id(row) for _, group in worth for row in group}
    rest = [row for row in rows if id(row) not in others]
    return [*worth, *([(0, rest)] if rest else [])]


def _common(one: Encoded, other: Encoded) -> int:
    limit = min(len(one.ids), len(other.ids)) - 1
    return next((k for k in range(limit) if one.ids[k] != other.ids[k]), limit)


def without_beginning(row: Encoded, shared: int) -> Encoded:
    """The row from its first own token on; its key must not stand before."""
    return Encoded(row.prompt_ids[shared:], row.target_ids, row.key_index - shared)


def inputs_after(
    tokenizer: Any, rows: Sequence[Encoded], shared: int, cache: DynamicCache | None, device: Any
) -> tuple[Batch, dict[str, Any]]:
    """A batch of what the rows have of their own, and the model's arguments for it behind ``cache``.

    Args:
        cache: the beginning's keys and values, of one row; None where nothing is shared.
    """
    batch = collate([without_beginning(row, shared) for row in rows], tokenizer, device=device)
    inputs: dict[str, Any] = batch.model_inputs()
    if cache is None:
        return batch, {**inputs, "use_cache": False}
    own = DynamicCache()
    for number, layer in enumerate(cache.layers):
        kept: Any = layer
        own.update(_rows(kept.keys, len(rows)), _rows(kept.values, len(rows)), number)
    before = batch.attention_mask.new_ones(len(rows), shared)
    inputs["attention_mask"] = torch.cat([before, batch.attention_mask], 1)
    inputs["position_ids"] = batch.position_ids + shared
    return batch, {**inputs, "past_key_values": own, "use_cache": True}


def _rows(value: Tensor, n: int) -> Tensor:
    return value.expand(n, *value.shape[1:])
