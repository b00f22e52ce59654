"""A user's preferences together: what a new one adds to the factors that the user has.

The one place that says how preferences of one user are composed: users are taught here, and evaluation asks here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..errors import PersonalizationError
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import edited_copy
from ..statements.memory import current, overrules
from ..store.compact import composed, reduced
from ..types import EditResult, Preference, WeightDelta
from .algorithm import personalize
from .many import edit_many

# Of a difference's largest singular value: smaller ones are what is left of parts that cancel in float32.
ROUNDING = 1e-6


def add_preferences(
    model: nn.Module,
    tokenizer: Any,
    known: Sequence[Preference],
    new: Sequence[Preference],
    have: Sequence[WeightDelta],
    hparams: PersonalizationHyperParams,
    *,
    joint: bool | None = None,
) -> EditResult:
    """The factors that add new preferences to those that a user's model knows; the model is left as it is.

    Args:
        model: the base model, without the user's factors.
        known: what ``have`` has taught, the earliest first.
        new: what is to be added; of two about the same matter the later one counts.
        have: the user's factors.
        hparams: how to edit.
        joint: the result is that of solving all preferences together from the base model; else edit on top of
            ``have``. None does as ``hparams.strategy`` says. Preferences that stand apart (``stand_apart``) cost the
            same each; others cost more with every one, since all are solved again.

    Raises:
        RequestError: the preferences cannot be edited in; nothing was computed.
        HealthError: the edit would damage the model.
    """
    if joint is None:
        joint = hparams.strategy == "joint"
    if joint and _adds_up(Addition(known, new, have, joint), hparams):
        return personalize(model, tokenizer, current(new), hparams, beside=have)
    if joint:
        result = personalize(model, tokenizer, current([*known, *new]), hparams)
        return replace(result, deltas=_difference(result.deltas, have))
    return personalize(edited_copy(model, have), tokenizer, new, hparams, clean=model)


@dataclass(frozen=True, slots=True)
class Addition:
    """What is to be added to one user's model, see ``add_preferences``."""

    known: Sequence[Preference]
    new: Sequence[Preference]
    have: Sequence[WeightDelta]
    joint: bool


def add_to_many(
    model: nn.Module, tokenizer: Any, additions: Sequence[Addition], hparams: PersonalizationHyperParams
) -> list[EditResult | PersonalizationError]:
    """``add_preferences`` for many users: together those whose new preferences are edits of the base model.

    Returns:
        Each one's result, or the error that concerns them.
    """
    together = [n for n, one in enumerate(additions) if one.joint and (not one.have or _adds_up(one, hparams))]
    wanted = [current(additions[n].new) for n in together]
    beside = [additions[n].have for n in together]
    found = dict(zip(together, edit_many(model, tokenizer, wanted, hparams, beside=beside)))
    for n, one in enumerate(additions):
        if n in found:
            continue
        try:
            found[n] = add_preferences(model, tokenizer, one.known, one.new, one.have, hparams, joint=one.joint)
        except PersonalizationError as error:
            found[n] = error
    return [found[n] for n in range(len(additions))]


def _adds_up(one: Addition, hparams: PersonalizationHyperParams) -> bool:
    """Whether what is new is the same whatever the user has."""
    return stand_apart([*one.known, *one.new], hparams) and not overrule_any(one.new, one.known)


def stand_apart(preferences: Sequence[Preference], hparams: PersonalizationHyperParams) -> bool:
    """Whether preferences of different kinds, solved together, are the sum of each solved alone.

    So they are with natural answers, where every kind has a gate and a value of its own (``kernels/METHOD.md``).
    """
    natural = hparams.kernel == "lowrank" and hparams.answers == "natural"
    return natural and all(preference.subject for preference in preferences)


def overrule_any(later: Sequence[Preference], earlier: Sequence[Preference]) -> bool:
    """Whether some of the later preferences overrule any of the earlier."""
    return any(overrules(one, other) for one in later for other in earlier)


def _difference(new: Sequence[WeightDelta], old: Sequence[WeightDelta]) -> list[WeightDelta]:
    """What has to be added to ``old`` to have ``new``, without the directions that are float32's rounding.

    Directions that both have, bit for bit, are left out: a gate that the user has stays shared. One that is new does so
    too.
    """
    if not old:
        return [*new]
    new, old = ([delta.to("cpu") for delta in some] for some in (new, old))
    have = Counter(_directions(old))
    is_apart = [delta.shared and not Counter(_directions([delta])) <= have for delta in new]
    rest = [delta for delta, apart in zip(new, is_apart) if not apart]
    both = have & Counter(_directions(rest))
    minus = [WeightDelta(delta.layer, -delta.left, delta.right) for delta in _without(old, both)]
    own = [_trimmed(delta) for delta in composed([*_without(rest, both), *minus]) if delta.rank]
    found = [*(delta for delta, apart in zip(new, is_apart) if apart), *own]
    return found or [_zero(old[0])]


def _directions(deltas: Sequence[WeightDelta]) -> Iterator[tuple[str, bytes]]:
    """What tells one direction from another: its matrix, and a digest of its column and row."""
    for delta in deltas:
        for column, row in zip(delta.left.T, delta.right):
            both = torch.cat([column, row]).contiguous().view(torch.uint8)
            yield delta.layer, hashlib.blake2b(both.numpy().tobytes(), digest_size=16).digest()


def _without(deltas: Sequence[WeightDelta], gone: Counter[tuple[str, bytes]]) -> list[WeightDelta]:
    """The updates without some of their directions, each as often as it is counted."""
    still, found = Counter(gone), []
    for delta in deltas:
        kept = []
        for number, key in enumerate(_directions([delta])):
            if still[key] > 0:
                still[key] -= 1
            else:
                kept.append(number)
        found.append(WeightDelta(delta.layer, delta.left[:, kept], delta.right[kept]))
    return found


def _zero(like: WeightDelta) -> WeightDelta:
    """An update that adds nothing: an edit has to have one."""
    return WeightDelta(like.layer, torch.zeros_like(like.left[:, :1]), torch.zeros_like(like.right[:1]))


def _trimmed(delta: WeightDelta) -> WeightDelta:
    core = torch.linalg.qr(delta.left.double())[1] @ torch.linalg.qr(delta.right.double().T)[1].T
    values = torch.linalg.svdvals(core)
    return reduced(delta, max(1, int((values > ROUNDING * values.max()).sum())))
