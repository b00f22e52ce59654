"""Keys around a kind's questions and answers at which its users' values keep quiet; kept on disk beside the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..hparams import PersonalizationHyperParams
from ..modeling.kept import Tensors
from ..modeling.layout import Layout, context_limit, input_device
from ..modeling.tokens import Encoded
from .contrasts import Pack, encoded_contrast
from .edited_rows import EditedRows
from .ground_numbers import last_keys, thinned
from .kinds import BegunAnswer
from .spoken import Spoken, go_on, value_places

LONG = 48  # tokens that the model writes after a beginning: a value must not be said again and again
LONG_ROWS = 20
Places = Mapping[int, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class QuietKeys:
    """Keys [n, d_in] by layer.

    Attributes:
        near: along answers: unedited ones to questions near the kind's own, and the kind's own but for the value.
        closed: where the answers to questions near the kind's own begin.
        begun: at the ends of beginnings after which no value belongs, see ``begun_answers``.
    """

    near: dict[int, Tensor]
    closed: dict[int, Tensor]
    begun: dict[int, Tensor]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], layers: Sequence[int]) -> QuietKeys:
        """As ``tensors`` made them."""
        return cls(*({n: tensors[f"{part}.{n}"].float() for n in layers} for part in ("near", "closed", "begun")))

    def tensors(self) -> Tensors:
        """The keys by name and layer, as they are kept."""
        parts = (("near", self.near), ("closed", self.closed), ("begun", self.begun))
        return {f"{part}.{n}": keys.half() for part, found in parts for n, keys in found.items()}


def quiet_keys(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    spoken: Sequence[Spoken],
    places: Places,
    tails: Mapping[int, Tensor],
    own: Sequence[Pack],
    begun: Sequence[BegunAnswer],
    hparams: PersonalizationHyperParams,
) -> QuietKeys:
    """Keys around the answers of a kind.

    Args:
        model: unedited; frozen and in evaluation mode.
        spoken: answers that state the preference.
        places: keys [n, d_in] and outputs [n, d_out] at all places of these answers, in their order, by layer.
        tails: see ``tails_of``.
        own: contrasts about the kind itself.
        begun: beginnings after which no value belongs.
    """
    roles = [role for s in spoken for role in s.roles]
    beside_value = torch.tensor([role != "value" for role in roles])
    near: dict[int, list[Tensor]] = {n: [keys[beside_value.to(keys.device)]] for n, (keys, _) in places.items()}
    for pack in own:
        numbers = [i for i, contrast in enumerate(pack.contrasts) if not contrast.history]
        part = pack.rows.select(numbers) if numbers else None
        for layer, (keys, _) in part.found_at(part.rows, part.columns).items() if part else ():
            near[layer].append(keys)
    rows = [_begun_row(tokenizer, answer, hparams) for answer in begun]
    ends = last_keys(model, tokenizer, layout, rows, hparams)
    together = {layer: thinned(torch.cat([*parts, tails[layer]])) for layer, parts in near.items()}
    return QuietKeys(together, closed_of(own), ends)


def value_starts(spoken: Sequence[Spoken], places: Places) -> Tensors:
    """Keys [n, d_in] where a value begins, by layer and by whether other turns stand before the question (0 or 1).

    They are the beginnings' own: what the value is, comes after.

    Args:
        spoken, places: as for ``quiet_keys``.
    """
    by_talk = value_places(spoken).items()
    return {f"starts{talked:d}.{n}": keys[at].half() for n, (keys, _) in places.items() for talked, at in by_talk}


def closed_of(own: Sequence[Pack]) -> dict[int, Tensor]:
    """Keys [n, d_in] where the answers to contrasts begin, by layer."""
    found: dict[int, list[Tensor]] = {}
    for pack in own:
        for layer, (keys, _) in pack.rows.where_answers_begin().items():
            found.setdefault(layer, []).append(keys)
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def tails_of(
    model: nn.Module, tokenizer: Any, layout: Layout, spoken: Sequence[Spoken], hparams: PersonalizationHyperParams
) -> dict[int, Tensor]:
    """Keys [n, d_in] along what the model writes by itself after beginnings, by layer; n may be 0.

    Where it says the beginning or the value once more, it is left out: there an update may act.
    """
    limit = context_limit(model)
    bare = [_bare(s) for s in spoken if s.phrase.asks != "name" and not s.phrase.history][:LONG_ROWS]
    long = [s for s in go_on(model, tokenizer, bare, LONG) if limit is None or len(s.row.ids) <= limit]
    if not long:
        width = layout.d_mlp
        return {layer: torch.zeros(0, width, device=input_device(model)) for layer in hparams.layers}
    rows = EditedRows(model, tokenizer, layout, [s.row for s in long], hparams.layers, from_answers=True)
    elsewhere = torch.tensor([flag for s in long for flag in said_elsewhere(s)], device=rows.ids.device)
    return {layer: keys[elsewhere] for layer, (keys, _) in rows.found_at(rows.rows, rows.columns).items()}


def _bare(spoken: Spoken) -> Spoken:
    """The beginning alone, without what the model wrote after it."""
    end = spoken.roles.index("keep") if "keep" in spoken.roles else len(spoken.roles)
    return replace(spoken, row=replace(spoken.row, target_ids=spoken.row.target_ids[:end]), roles=spoken.roles[:end])


def said_elsewhere(spoken: Spoken) -> list[bool]:
    """Which tokens of an answer the model wrote by itself, without the value and what stands before it once more."""
    ids, start = spoken.row.target_ids, spoken.value_at
    before, value = ids[start - 2 : start], {id for id, role in zip(ids, spoken.roles) if role == "value"}
    return [
        role == "keep" and id not in value and ids[i - 2 : i] != before
        for i, (id, role) in enumerate(zip(ids, spoken.roles))
    ]


def _begun_row(tokenizer: Any, answer: BegunAnswer, hparams: PersonalizationHyperParams) -> Encoded:
    """The question and the beginning as a prompt whose last token is the one a value would follow."""
    prompt = encoded_contrast(tokenizer, answer.contrast, hparams, answer.begun)
    return Encoded(prompt.ids, prompt.ids[-1:], len(prompt.ids) - 1)  # any token: only its place is looked at
