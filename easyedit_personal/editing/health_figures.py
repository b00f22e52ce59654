"""The health figures of edited models, one or many, without running the unedited part of them again.

What lies below the edits is the same for every edit of a model: neutral texts and the unedited model's own answers are
read once, and an edit is asked by the layers above what it changes. Only from where it leaves such an answer does it
write on by itself, all users' answers in one batch.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..generation.generate import continuations
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import edited, parameter_name, relative_norm
from ..kernels.base import frozen
from ..kernels.edited_rows import Change, EditedRows
from ..kernels.neurons import seen_by_edits, takes_neurons
from ..modeling.kept import read_kept, write_kept
from ..modeling.layout import (
    Layout,
    find_layout,
    fingerprint,
    get_module,
    input_device,
    is_transposed,
    tokenizer_fingerprint,
    weight_of,
)
from ..modeling.per_model import PerModel
from ..modeling.stats import cache_folder
from ..modeling.tokens import Encoded, encode, stop_ids
from ..serving.multi_adapter import merged, mixed
from ..types import WeightDelta
from .health import ANSWER_TOKENS, VERSION, HealthBaseline, neutral_pairs


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
        For each ``perplexity_ratio`` (after/before), ``relative_norm`` (||update|| / ||weight||), ``natural_stops`` (a
        share) and ``surprise`` (nats per token), see ``HealthBaseline``.
    """
    clean = model if clean is None else clean
    folder = cache_folder(hparams) / fingerprint(clean) if takes_neurons(hparams) else None
    layout, before = find_layout(model, hparams), HealthBaseline.of(clean, tokenizer, folder)
    perplexities, begun = [], []
    with frozen(model), torch.no_grad():
        for deltas in many:
            seen, changes, others = _changes(model, layout, merged(deltas))
            with edited(model, others):  # made with other settings
                keep_in = folder if model is clean and not others else None
                looked_at = _LookedAt.of(model, tokenizer, seen, tuple(sorted(changes)), before, keep_in)
                perplexities.append(looked_at.perplexity(changes))
                begun.append(looked_at.begun(changes))
        rows = _written(model, tokenizer, many, before, begun)
    surprises = before.surprises(clean, tokenizer, rows)
    return [
        {
            "perplexity_ratio": perplexity / before.perplexity,
            "relative_norm": relative_norm(model, deltas),
            "natural_stops": before.natural_stops(clean, tokenizer, said),
            "surprise": surprise,
        }
        for deltas, perplexity, said, surprise in zip(many, perplexities, rows, surprises)
    ]


def read_ahead(model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams) -> Path | None:
    """What the figures of edits of neurons need of a base model; kept in the folder that is returned, else None."""
    if not takes_neurons(hparams):
        return None
    folder = cache_folder(hparams) / fingerprint(model)
    with frozen(model), torch.no_grad():
        before = HealthBaseline.of(model, tokenizer, folder)
        layout = seen_by_edits(model, hparams)
        _LookedAt.of(model, tokenizer, layout, tuple(sorted(hparams.layers)), before, folder)
    return folder


@dataclass(frozen=True, slots=True)
class _LookedAt:
    """Neutral texts and the unedited model's answers, read up to the edited layers.

    Attributes:
        texts: rows whose targets are all tokens but the first.
        places, weights: of the texts' tokens that are looked at, (rows, columns), and how many texts they stand for.
        ids: the tokens there.
        answers: prompts with the unedited model's answers; None where none fits the context.
    """

    texts: EditedRows
    places: tuple[Tensor, Tensor]
    weights: Tensor
    ids: Tensor
    answers: EditedRows | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        layers: tuple[int, ...],
        before: HealthBaseline,
        folder: Path | None,
    ) -> _LookedAt:
        """Read once per model and set of layers; bound to this model, since another with the same weights may go.

        Args:
            folder: where the reading is kept for other processes, if that can be done, see ``EditedRows.kept``.
        """
        layers = layers or (layout.n_layers - 1,)

        def read() -> _LookedAt:
            if folder is None:
                return cls._read(model, tokenizer, layout, layers, before).detached()
            looked_at = (
                VERSION,
                tokenizer_fingerprint(tokenizer),
                layout.rewrite,
                layers,
                before.rows,
                neutral_pairs(),
            )
            path = folder / f"read-{hashlib.sha256(repr(looked_at).encode()).hexdigest()[:16]}.safetensors"
            known, _ = read_kept(path) or ({}, {})
            found = cls._read(model, tokenizer, layout, layers, before, known)
            if not known and (tensors := found.kept()):
                write_kept(path, tensors, {})
            return found.detached()

        return _LOOKED_AT.get(model, tokenizer, read, layers, layout.rewrite, before, input_device(model)).on(model)

    @classmethod
    def _read(
        cls,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        layers: Sequence[int],
        before: HealthBaseline,
        known: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> _LookedAt:
        def ran(part: str, rows: Sequence[Encoded]) -> EditedRows:
            mine = {name.removeprefix(part): tensor for name, tensor in known.items() if name.startswith(part)}
            return EditedRows(model, tokenizer, layout, rows, layers, known=mine)

        texts = [encode(tokenizer, question, target=answer).ids for question, answer in neutral_pairs()]
        rows = ran("texts.", [Encoded(ids[:1], ids[1:], 0) for ids in texts])
        shared = next(k for k in range(len(min(texts, key=len))) if len({ids[k] for ids in texts}) > 1)
        once = rows.columns + 1 < shared  # what all texts begin with is looked at in the first one
        chosen = (~once | (rows.rows == 0)).nonzero()[:, 0]
        return cls(
            rows,
            (rows.rows[chosen], rows.columns[chosen]),
            torch.where(once, len(texts), 1)[chosen],
            rows.ids[chosen],
            ran("answers.", before.rows) if before.rows else None,
        )

    def kept(self) -> dict[str, Tensor]:
        """What to keep of the reading."""
        parts = {"texts.": self.texts.kept(), "answers.": self.answers.kept() if self.answers else {}}
        return {before + name: tensor for before, part in parts.items() for name, tensor in part.items()}

    def detached(self) -> _LookedAt:
        """The same without a model, which is not kept alive for it."""
        return replace(self, texts=self.texts.detached(), answers=self.answers and self.answers.detached())

    def on(self, model: nn.Module) -> _LookedAt:
        """The same for a model with the same weights."""
        return replace(self, texts=self.texts.on(model), answers=self.answers and self.answers.on(model))

    def perplexity(self, changes: Mapping[int, Change]) -> float:
        """As ``health.perplexity`` of the edited model."""
        costs = F.cross_entropy(self.texts.logits(changes, at=self.places), self.ids, reduction="none")
        loss = float((costs * self.weights).sum() / self.weights.sum())
        return math.exp(min(700.0, loss))

    def begun(self, changes: Mapping[int, Change]) -> list[tuple[int, ...]]:
        """Every answer up to where the edited model leaves it, its token there included; whole where it does not."""
        if self.answers is None:
            return []
        wanted = self.answers.logits(changes).argmax(-1)
        own = self.answers.ids
        found = []
        for row in range(len(self.answers.last_index)):
            mine = self.answers.rows == row
            said, other = own[mine].tolist(), wanted[mine].tolist()
            left = next((k for k in range(len(said)) if said[k] != other[k]), None)
            found.append(tuple(said) if left is None else (*said[:left], other[left]))
        return found


_LOOKED_AT: PerModel[_LookedAt] = PerModel()


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
    changes = {blocks[path]: partial(_added_by, get_module(model, path), path, own) for path, own in inside.items()}
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
