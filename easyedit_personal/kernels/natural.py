"""Edits that say it first and let the model do the rest: a gate per kind of attribute, and each user's value.

    update = sum over preferences of (gate of its kind + value)

The gate is shared by all users of a model; nothing is solved together, so preferences come and go one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import find_layout
from ..types import EditRequest, WeightDelta
from .apply import edited
from .base import frozen, group_by_cluster
from .gate import gates_for
from .ground import prepare
from .ground_numbers import faster_products
from .kinds import Kind, kind_of
from .user_value import learn_value

Named = dict[Kind, list[EditRequest]]


def by_kind(requests: Sequence[EditRequest]) -> tuple[Named, list[EditRequest]]:
    """Requests by the kind of attribute they are about, and those whose attribute has no name."""
    named: Named = {}
    bare: list[EditRequest] = []
    for members in group_by_cluster(requests):
        own = [requests[i] for i in members]
        kind = kind_of(own)
        if kind is None:
            bare += own
        else:
            named.setdefault(kind, []).extend(own)
    return named, bare


def natural(
    model: nn.Module,
    tokenizer: Any,
    preferences: Mapping[Kind, Sequence[EditRequest]],
    hparams: PersonalizationHyperParams,
) -> list[WeightDelta]:
    """The gate of every kind, then the values, each learned apart with its kind's gate in place.

    What the model needs for it is computed once and kept on disk: minutes at a model's first edit, half a minute at a
    kind's first, seconds afterwards.

    Args:
        model: a causal language model; bit for bit the same afterwards, also when this raises.
        preferences: requests by kind, see ``by_kind``; two values of one kind are said together ("chess and jazz").

    Returns:
        Two ``WeightDelta``s per kind and layer: the gate's, the same for every user, and the value's.
    """
    layout = find_layout(model, hparams)
    paths = {layer: layout.rewrite_path(layer) for layer in hparams.layers}
    deltas: list[WeightDelta] = []
    with frozen(model):
        with faster_products():
            ground = prepare(model, tokenizer, layout, hparams)
            gates = gates_for(model, tokenizer, layout, list(preferences), ground, hparams)
        for gate, (kind, requests) in zip(gates, preferences.items()):
            shared = [WeightDelta(paths[layer], left, right) for layer, (left, right) in gate.factors.items()]
            value = " and ".join(dict.fromkeys(request.target_new.strip() for request in requests))
            with edited(model, shared):
                updates = learn_value(model, tokenizer, layout, kind, value, requests, gate, ground, hparams)
            deltas += [*shared, *(update.delta(paths[layer]) for layer, update in updates.items())]
    return deltas


def merged(deltas: Sequence[WeightDelta]) -> list[WeightDelta]:
    """One update per layer: factors side by side."""
    found = []
    for path in sorted({delta.layer for delta in deltas}):
        parts = [delta for delta in deltas if delta.layer == path]
        device = parts[0].left.device
        left, right = (
            torch.cat([getattr(part, side).to(device) for part in parts], dim)
            for side, dim in (("left", 1), ("right", 0))
        )
        found.append(WeightDelta(path, left, right))
    return found
