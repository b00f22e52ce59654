"""The health figures of edited models, one or many, without running the unedited part of them again.

What lies below the edits is the same for every edit of a model: neutral texts and the unedited model's own answers are
read once, and an edit is asked by the layers above what it changes. Only from where it leaves such an answer does it
write on by itself, all users' answers in one batch.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..generation.generate import continuations
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import in_weights, parameter_name, relative_norm
from ..kernels.base import frozen
from ..kernels.beside import beside
from ..kernels.edited_rows import Change
from ..kernels.neurons import without_thresholds
from ..modeling.layout import Layout, find_layout, get_module, is_transposed, weight_of
from ..modeling.tokens import Encoded, stop_ids
from ..serving.multi_adapter import merged, mixed
from ..types import WeightDelta
from .health import ANSWER_TOKENS, HealthBaseline
from .health_reading import Reading, kept_in


def health_figures(
    model: nn.Module,
    tokenizer: Any,
    many: Sequence[Sequence[WeightDelta]],
    hparams: PersonalizationHyperParams,
    clean: nn.Module | None = None,
) -> list[dict[str, float]]:
    """The figures of the model with each one's updates.

    Args:
        model: without the updates; bit for bit the same afterwards.
        many: one or many users' updates.
        hparams: ``rewrite_module_tmp`` and the like.
        clean: the model before any edit, where ``model`` carries earlier ones.

    Returns:
        For each ``perplexity_ratio`` (after/before), ``relative_norm`` (||update|| / ||weight||, thresholds of neurons
        left out), ``natural_stops`` (a share) and ``surprise`` (nats per token), see ``HealthBaseline``.
    """
    clean = model if clean is None else clean
    folder = kept_in(clean, hparams)
    layout, before = find_layout(model, hparams), HealthBaseline.of(clean, tokenizer, folder)
    perplexities, begun = [], []
    with frozen(model), torch.no_grad():
        for deltas in many:
            seen, changes, others = _changes(model, layout, merged(deltas))
            with in_weights(model, others):  # made with other settings
                keep_in = folder if model is clean and not others else None
                reading = Reading.of(model, tokenizer, seen, tuple(sorted(changes)), before, keep_in)
                perplexities.append(reading.perplexity(changes))
                begun.append(reading.begun(changes))
        rows = _written(model, tokenizer, many, before, begun)
    surprises = before.surprises(clean, tokenizer, rows)
    return [
        {
            "perplexity_ratio": perplexity / before.perplexity,
            "relative_norm": relative_norm(model, without_thresholds(deltas)),
            "natural_stops": before.natural_stops(clean, tokenizer, said),
            "surprise": surprise,
        }
        for deltas, perplexity, said, surprise in zip(many, perplexities, rows, surprises)
    ]


def _written(
    model: nn.Module,
    tokenizer: Any,
    many: Sequence[Sequence[WeightDelta]],
    before: HealthBaseline,
    begun: Sequence[Sequence[tuple[int, ...]]],
) -> list[list[Encoded]]:
    """Everybody's answers in full: what is begun, and the edited model's own words from there on."""
    ends = frozenset(stop_ids(model, tokenizer))
    places = [
        (user, number)
        for user, answers in enumerate(begun)
        for number, said in enumerate(answers)
        if said != before.rows[number].target_ids and said[-1] not in ends and len(said) < ANSWER_TOKENS
    ]
    prompts = [
        Encoded(before.rows[number].prompt_ids + begun[user][number], (), before.rows[number].key_index)
        for user, number in places
    ]
    limits = [ANSWER_TOKENS - len(begun[user][number]) for user, number in places]
    factors = [merged(deltas) for deltas in many]
    with mixed(model, [factors[user] for user, _ in places]) as adapters:
        owners = [user for user, _ in places]
        more = continuations(model, tokenizer, prompts, limits, owners=owners, set_rows=adapters.set_rows)
    written = {place: tuple(tokens) for place, tokens in zip(places, more)}
    return [
        [
            replace(row, target_ids=said + written.get((user, number), ()))
            for number, (row, said) in enumerate(zip(before.rows, answers))
        ]
        for user, answers in enumerate(begun)
    ]


def _changes(
    model: nn.Module, layout: Layout, updates: Mapping[str, WeightDelta]
) -> tuple[Layout, dict[int, Change], list[WeightDelta]]:
    """What updates add to an output, by layer; the layout that says to which; and the updates that must be applied.

    An update of a down projection adds to what that gives. Where all are of MLPs' matrices, as neurons are, they add to
    what the MLPs give, which stand for their down projections then.
    """
    layers = range(layout.n_layers)
    down = {layout.rewrite_path(layer): layer for layer in layers}
    blocks = {layout.mlp.replace("{}", str(layer)): layer for layer in layers if layout.mlp != layout.layer}
    inside: dict[str, list[WeightDelta]] = {}
    for path, one in updates.items():
        inside.setdefault(path.rpartition(".")[0], []).append(one)
    if set(updates) <= set(down) or not set(inside) <= set(blocks):
        changes: dict[int, Change] = {down[p]: partial(_added, one) for p, one in updates.items() if p in down}
        return layout, changes, [one for path, one in updates.items() if path not in down]
    neurons, _ = beside(model, list(updates.values()))
    changes = {
        blocks[path]: neurons.get(path) or partial(_added_by, get_module(model, path), path, own)
        for path, own in inside.items()
    }
    return replace(layout, rewrite=layout.mlp, d_mlp=layout.d_model), changes, []


def _added(delta: WeightDelta, keys: Tensor) -> Tensor:
    return F.linear(F.linear(keys, delta.right.to(keys)), delta.left.to(keys))


def _added_by(block: nn.Module, path: str, deltas: Sequence[WeightDelta], inputs: Tensor) -> Tensor:
    """What an MLP gives with updates of its matrices, without what it gives as it is."""
    bare = copy.copy(block)
    bare._forward_hooks = OrderedDict()  # the one that calls this is among them
    changed = {}
    for delta in deltas:
        name = delta.layer.removeprefix(f"{path}.")
        weight, update = weight_of(get_module(block, name)), delta.update()
        update = update.T if is_transposed(get_module(block, name), name) else update
        changed[parameter_name(block, weight)] = weight + update.to(weight)
    inputs = inputs.to(next(block.parameters()))
    return (functional_call(bare, changed, (inputs,)) - bare(inputs)).float()
