"""Users' own parts of an edit: what stands after "Your hobby is". The gate of the kind decides when that is said.

The keys of these positions are the model's own words, nearly the same whatever was asked (as a subject's are in ROME,
arXiv 2202.05262), so a few phrases and steps suffice. Values of many users share every pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, input_device
from ..progress import log
from .carried import Carried
from .edited_rows import EditedRows
from .factors import Update, adam
from .ground import Ground
from .packing import ENOUGH
from .spoken import Spoken
from .target_gradients import target_gradients
from .value_start import (
    Wanted,
    again_keys,
    chosen,
    first_factors,
    learned_roles,
    own_and_known_starts,
    own_phrases,
    quiet_forms,
    words_and_learned,
)

RIGHT_LR = 0.05
SURE = 0.02  # nats; a value's token that costs less is said, also where the question is a new one
PER_ANSWER = 4.0  # tokens; with the mean over all tokens a long value's first ones would hardly count
BATCHES = 2  # a step sees half of the phrases
STEADY = 1.0  # nats, where nothing is added behind the gate's questions of what is added behind a value's own
UNLEARNED = 1.0  # nats of a token that is unlikely to be said


def learn_values(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    wanted: Sequence[Wanted],
    ground: Ground,
    hparams: PersonalizationHyperParams,
) -> list[dict[int, Update]]:
    """Factors by layer that make the model say each value where its gate has it say the beginning.

    Values do not see each other: several are learned in one pass because that is cheaper, each with its own rate and
    early stop, and each comes out as it would alone, but for rounding.

    Args:
        model: unedited; frozen and in evaluation mode.

    Raises:
        RequestError: no phrase fits the model's context with some value; nothing was computed.
    """
    spoken = [chosen(model, tokenizer, one, hparams) for one in wanted]
    found: list[dict[int, Update]] = [{} for _ in wanted]
    for pack in _packs(spoken, ENOUGH.get(input_device(model).type, ENOUGH["cuda"])):
        mine = [spoken[number] for number in pack]
        encoded = [s.row for some in mine for s in some]
        gates = [wanted[number].gate.factors for number in pack for _ in spoken[number]]
        rows = EditedRows(model, tokenizer, layout, encoded, hparams.layers, from_answers=True, carried=Carried(gates))
        values, first = [], 0
        for number, some in zip(pack, mine):
            again = again_keys(model, tokenizer, layout, wanted[number], some, hparams)
            values.append(_Value(wanted[number], some, rows, first, again, ground, hparams))
            first += len(some)
        _Together(rows, values, hparams).learn()
        for number, value in zip(pack, values):
            found[number] = value.updates
    return found


class _Value:
    """One value on its way: its phrases' places among the rows, and how far it has come.

    Attributes:
        parts: numbers of its rows, by the step that sees them.
        worst: what its dearest token costs, by step, in nats.
    """

    def __init__(
        self,
        wanted: Wanted,
        spoken: Sequence[Spoken],
        rows: EditedRows,
        first: int,
        again: Mapping[int, Tensor],
        ground: Ground,
        hparams: PersonalizationHyperParams,
    ) -> None:
        self.wanted, self.first, self.hparams = wanted, first, hparams
        mine = rows.select(range(first, first + len(spoken)))
        self.words, self.learned, costs = words_and_learned(mine, spoken, own_phrases(wanted, hparams))
        self.updates = first_factors(mine, spoken, self.learned, costs, wanted.gate, ground, hparams)
        gradients = target_gradients([mine], learned_roles(spoken, self.learned, rows.ids.device), self.words)
        self.quiet = quiet_forms(wanted, ground, gradients, again, rows.ids.device)
        self.starts = own_and_known_starts(mine, spoken, wanted.gate)
        order = Random(hparams.seed).sample(range(len(spoken)), len(spoken))
        self.parts = [sorted(order[i::BATCHES]) for i in range(min(BATCHES, len(order)))]
        self.worst = [float("inf")] * len(self.parts)

    def part(self, step: int) -> list[int]:
        """Numbers of its phrases that a step sees."""
        return self.parts[step % len(self.parts)]

    def loss(self, step: int, logits: Tensor, ids: Tensor) -> Tensor:
        """Nats per answer, tokens that are said anyway left out, and what it costs to be heard elsewhere.

        Args:
            logits: [m, words] at the places that are learned.
            ids: the tokens there [m].
        """
        costs = F.cross_entropy(logits, torch.searchsorted(self.words, ids), reduction="none")
        self.worst[step % len(self.parts)] = float(costs.detach().max())
        total = (costs * (costs.detach() > SURE)).sum() / (PER_ANSWER * len(self.part(step)))
        weight = self.hparams.natural.value_quiet_weight
        total = total + weight * sum(share * form(self.updates[layer]) for share, form, layer in self.quiet)
        return total + STEADY * sum(unsteady(self.updates[n], *keys) for n, keys in self.starts.items())


def unsteady(update: Update, own: Tensor, others: Tensor) -> Tensor:
    """How far an update is from adding at the keys ``others`` what it adds at ``own`` in the mean: a share of that."""
    wanted = update(own).mean(0).detach()
    return (update(others) - wanted).square().sum(1).mean() / wanted.square().sum().clamp(min=update.space.unit**2)


class _Together:
    """Values that are learned in the same steps."""

    def __init__(self, rows: EditedRows, values: Sequence[_Value], hparams: PersonalizationHyperParams) -> None:
        self.rows, self.hparams = rows, hparams
        self.open = list(values)
        self._seen: dict[int, _Seen] = {}

    def learn(self) -> None:
        """Adam for all of them; who has learned enough stays as it is, and costs nothing more."""
        params, values = self.hparams.natural, list(self.open)
        updates = [update for value in values for update in value.updates.values()]
        adam(updates, self._loss, params.value_steps, params.value_lr, RIGHT_LR, self._all_done)
        for value in values:
            if max(value.worst) > UNLEARNED:
                said, kind, cost = value.wanted.value, value.wanted.kind.name, max(value.worst)
                log.warning("%r was not fully learned as %s: %.1f nats at its dearest token", said, kind, cost)

    def _loss(self, step: int) -> Tensor:
        if step % BATCHES not in self._seen:
            self._seen[step % BATCHES] = _Seen.of(self.rows, self.open, step)
        seen = self._seen[step % BATCHES]
        changes = {
            layer: partial(_each, [v.updates[layer] for v in self.open], seen.rows_of) for layer in self.rows.layers
        }
        counts, words = [len(ids) for ids in seen.ids], [value.words for value in self.open]
        logits = seen.rows.logits_by_part(changes, seen.at, counts, words)
        return torch.stack([v.loss(step, part, ids) for v, part, ids in zip(self.open, logits, seen.ids)]).sum()

    def _all_done(self) -> bool:
        still = [value for value in self.open if max(value.worst) >= self.hparams.natural.stop_loss]
        if len(still) < len(self.open):
            self.open = still
            self._seen.clear()
        return not still


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one step sees of several values.

    Attributes:
        rows: the phrases.
        rows_of: how many of them are each value's.
        at: (rows, columns) of all places that are learned.
        ids: the tokens there, by value.
    """

    rows: EditedRows
    rows_of: list[int]
    at: tuple[Tensor, Tensor]
    ids: list[Tensor]

    @classmethod
    def of(cls, rows: EditedRows, values: Sequence[_Value], step: int) -> _Seen:
        """Of all rows, those that are the values' turn."""
        parts = [[value.first + number for number in value.part(step)] for value in values]
        some = rows.select([number for part in parts for number in part])
        learned = [[flag for n in value.part(step) for flag in value.learned[n]] for value in values]
        places = torch.tensor([flag for flags in learned for flag in flags], device=rows.ids.device).nonzero()[:, 0]
        ids = some.ids[places].split([sum(flags) for flags in learned])
        return cls(some, [len(part) for part in parts], (some.rows[places], some.columns[places]), list(ids))


def _each(updates: Sequence[Update], counts: Sequence[int], keys: Tensor) -> Tensor:
    """What every update adds for its own rows of keys [n, t, d_in]."""
    return torch.cat([update(part) for update, part in zip(updates, keys.split(list(counts)))])


def _packs(spoken: Sequence[Sequence[Spoken]], enough: int) -> Iterator[list[int]]:
    """Numbers of the values that are learned together: a step sees about ``enough`` tokens, in rows of like length."""
    widths = [1 + max(len(s.row.target_ids) for s in some) for some in spoken]
    pack: list[int] = []
    for number in sorted(range(len(spoken)), key=lambda n: (widths[n], n)):
        pack.append(number)
        if sum(len(spoken[n]) for n in pack) // BATCHES * widths[number] >= enough:
            yield pack
            pack = []
    if pack:
        yield pack
