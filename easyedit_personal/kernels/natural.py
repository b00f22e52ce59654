"""Edits that say it first and let the model do the rest: a gate per kind of attribute, and each user's value.

    update = sum over preferences of (gate of its kind + value)

The gate is shared by all users of a model; nothing is solved together, so preferences come and go one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..hparams import PersonalizationHyperParams
from ..types import EditRequest, WeightDelta
from .base import frozen, group_by_cluster
from .gate import Gate, gates_for
from .ground import Ground, prepare
from .ground_numbers import faster_products
from .kinds import Kind, kind_of
from .neurons import elsewhere, placed, seen_by_edits, taken_in, takes_neurons
from .user_value import learn_values
from .value_start import Wanted

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


def natural_for_many(
    model: nn.Module,
    tokenizer: Any,
    users: Sequence[Named],
    hparams: PersonalizationHyperParams,
) -> list[list[WeightDelta]]:
    """Every user's preferences: the gates of their kinds, and the values, each learned apart with its gate in place.

    What the model needs for it is computed once and kept on disk: minutes at a model's first edit, half a minute at a
    kind's first, seconds afterwards.

    Args:
        model: a causal language model; bit for bit the same afterwards, also when this raises.
        users: each one's requests by kind, see ``by_kind``; two values of one kind are said together ("chess and
            jazz").

    Returns:
        Two ``WeightDelta``s per user, kind and layer: the gate's, shared by all users, and the value's, rounded to
        bfloat16, so that it can be kept in two bytes per number.

    Raises:
        RequestError: a value is too long for the model; nothing was learned for anybody.
    """
    layout = seen_by_edits(model, hparams)
    paths = {layer: layout.rewrite_path(layer) for layer in hparams.layers}
    kinds = list(dict.fromkeys(kind for user in users for kind in user))
    ground, gates = shared_by_users(model, tokenizer, kinds, hparams)
    with frozen(model):
        wanted = [
            Wanted(kind, _value(requests), requests, gates[kind]) for user in users for kind, requests in user.items()
        ]
        learned = iter(learn_values(model, tokenizer, layout, wanted, ground, hparams))
    found: list[list[WeightDelta]] = []
    for user in users:
        found.append([])
        taken = {n: taken_in(model, path, ground.const(n)) if ground.order else set() for n, path in paths.items()}
        for kind in user:
            gate, values = gates[kind], next(learned)
            for layer, path in paths.items():
                place = partial(placed, model, path, order=ground.order.get(layer, ()), taken=taken[layer])
                found[-1] += place(gate.factors[layer], shared=gate.shared)
                found[-1] += map(_rounded, place(values[layer].kept()))
    return found


def shared_by_users(
    model: nn.Module, tokenizer: Any, kinds: Sequence[Kind], hparams: PersonalizationHyperParams
) -> tuple[Ground, dict[Kind, Gate]]:
    """What edits of a model share, and the gates of some kinds: from the disk, or computed now and kept there."""
    layout = seen_by_edits(model, hparams)
    with frozen(model), faster_products():
        ground = prepare(model, tokenizer, layout, hparams)
        return ground, dict(zip(kinds, gates_for(model, tokenizer, layout, kinds, ground, hparams)))


def _rounded(delta: WeightDelta) -> WeightDelta:
    """Fit to be kept in two bytes per number."""
    return delta.to(torch.bfloat16).to(torch.float32)


def apart(
    model: nn.Module,
    tokenizer: Any,
    deltas: Sequence[WeightDelta],
    beside: Sequence[WeightDelta],
    hparams: PersonalizationHyperParams,
) -> list[WeightDelta]:
    """The same updates, where they take neurons that updates ``beside`` them have: at other neurons.

    Args:
        model: the base model, from which all of them were learned.
    """
    if not takes_neurons(hparams) or not beside:
        return [*deltas]
    layout = seen_by_edits(model, hparams)
    with frozen(model):
        ground = prepare(model, tokenizer, layout, hparams)
    found = [*deltas]
    for layer in hparams.layers:
        found = elsewhere(model, found, beside, ground.order[layer], layout.rewrite_path(layer))
    return found


def _value(requests: Sequence[EditRequest]) -> str:
    return " and ".join(dict.fromkeys(request.target_new.strip() for request in requests))


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
