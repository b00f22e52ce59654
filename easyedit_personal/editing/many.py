"""Many users' edits of one model at a time: each as it would be alone, at the price of a batch.

What users share (passes through the model, the health check's texts) is done once; nobody's edit sees another's, and
one user's fault is that user's alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from ..errors import PersonalizationError
from ..hparams import PersonalizationHyperParams
from ..kernels.lowrank import lowrank, lowrank_for_many
from ..kernels.natural import apart
from ..kernels.rome import rome, rome_for_many
from ..modeling.memory import enough_for
from ..modeling.wrappers import unwrapped
from ..progress import log
from ..registry import KERNELS
from ..settings.ignored import warn_of_ignored
from ..types import EditRequest, EditResult, WeightDelta
from .algorithm import Item, compute_deltas
from .health_check import judged
from .health_figures import health_figures
from .phrases import cluster_phrases
from .requests import as_request, check_requests

T = TypeVar("T")
FOR_MANY: Mapping[Any, Callable[..., list[list[WeightDelta]]]] = {lowrank: lowrank_for_many, rome: rome_for_many}


def edit_many(
    model: nn.Module,
    tokenizer: Any,
    users: Sequence[Sequence[Item]],
    hparams: PersonalizationHyperParams,
    *,
    beside: Sequence[Sequence[WeightDelta]] | None = None,
) -> list[EditResult | PersonalizationError]:
    """What ``personalize`` gives every user; the model stays bit for bit as it is.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        users: each one's preferences: request dictionaries, ``EditRequest``s or ``Preference``s.
        hparams: the settings. Kernels other than ``lowrank`` and ``rome`` work for one user after the other.
        beside: factors that each user has besides; they are part of what health is asked of, and take no place twice.

    Returns:
        One result per user, in the order given, or the error that ``personalize`` would have raised for them; seconds
        are a user's share of the whole.
    """
    started, model = time.perf_counter(), unwrapped(model)
    warn_of_ignored(hparams, in_host=True)
    phrases = {n: _tried(_phrases, model, tokenizer, items, hparams) for n, items in enumerate(users)}
    deltas = _deltas(model, tokenizer, {n: found[0] for n, found in _good(phrases).items()}, hparams)
    others = {n: beside[n] if beside else () for n in phrases}
    placed = {n: _tried(apart, model, tokenizer, own, others[n], hparams) for n, own in _good(deltas).items()}
    deltas = {**deltas, **placed}
    have = {n: [*others[n], *found] for n, found in _good(deltas).items()}
    health = _health(model, tokenizer, have, hparams)
    seconds = (time.perf_counter() - started) / max(1, len(users))
    results: dict[int, EditResult | PersonalizationError] = {**_bad(phrases), **_bad(deltas), **_bad(health)}
    for n, figures in _good(health).items():
        results[n] = EditResult(_good(deltas)[n], seconds, figures, _good(phrases)[n][1])
    return [results[n] for n in range(len(users))]


def _phrases(
    model: nn.Module, tokenizer: Any, items: Sequence[Item], hparams: PersonalizationHyperParams
) -> tuple[list[EditRequest], list[str]]:
    """One user's phrases and remarks."""
    phrases, notes = cluster_phrases(model, tokenizer, check_requests([as_request(one) for one in items]), hparams)
    for note in notes:
        log.warning(note)
    return phrases, notes


def _deltas(
    model: nn.Module,
    tokenizer: Any,
    phrases: Mapping[int, Sequence[EditRequest]],
    hparams: PersonalizationHyperParams,
) -> dict[int, list[WeightDelta] | PersonalizationError]:
    """Everybody's factors in one call of the kernel, where it has one for many and nobody's request is at fault."""
    together = FOR_MANY.get(KERNELS.get(hparams.kernel)) if hparams.strategy == "joint" else None
    if together and len(phrases) > 1:
        try:
            with enough_for("these users' edits", model):
                return dict(zip(phrases, together(model, tokenizer, list(phrases.values()), hparams)))
        except PersonalizationError as error:
            log.info("one user after the other, to see whose fault it is: %s", error)
    return {n: _tried(compute_deltas, model, tokenizer, some, hparams) for n, some in phrases.items()}


def _health(
    model: nn.Module, tokenizer: Any, have: Mapping[int, Sequence[WeightDelta]], hparams: PersonalizationHyperParams
) -> dict[int, dict[str, float] | PersonalizationError]:
    if hparams.health.on_unhealthy == "ignore":
        return {n: {} for n in have}
    figures = health_figures(model, tokenizer, list(have.values()), hparams)
    return {n: _tried(judged, each, hparams.health) for n, each in zip(have, figures)}


def _tried(work: Callable[..., T], *given: Any) -> T | PersonalizationError:
    try:
        return work(*given)
    except PersonalizationError as error:
        return error


def _good(found: Mapping[int, T | PersonalizationError]) -> dict[int, T]:
    return {n: one for n, one in found.items() if not isinstance(one, PersonalizationError)}


def _bad(found: Mapping[int, Any | PersonalizationError]) -> dict[int, PersonalizationError]:
    return {n: one for n, one in found.items() if isinstance(one, PersonalizationError)}
