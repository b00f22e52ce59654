"""The health guard: what an edit may do to the model, looked at before the edit is kept.

Three figures against ``health`` in the YAML: perplexity on neutral text, the size of the update, and whether neutral
questions are still answered to a natural stop. Edits that follow each other on one model are held against the model
before the first: each small step would pass against the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import HealthError
from ..hparams import HealthParams, PersonalizationHyperParams
from ..kernels.apply import edited, relative_norm
from ..progress import log
from ..types import WeightDelta
from .health import natural_stops, perplexity, perplexity_ratio


@dataclass(frozen=True, slots=True)
class HealthBaseline:
    """A model before any edit: its perplexity on neutral text, and the share of answers that stop by themselves."""

    perplexity: float
    natural_stops: float

    @classmethod
    def of(cls, model: nn.Module, tokenizer: Any) -> HealthBaseline:
        """Measure it."""
        return cls(perplexity(model, tokenizer), natural_stops(model, tokenizer))


def check_health(
    model: nn.Module,
    tokenizer: Any,
    deltas: Sequence[WeightDelta],
    hparams: PersonalizationHyperParams,
    baseline: HealthBaseline | None = None,
) -> dict[str, float]:
    """The figures of the model with the updates; empty where ``health.on_unhealthy`` is "ignore".

    Args:
        model: without the updates; bit for bit the same afterwards.
        baseline: the model before any edit, where ``model`` carries earlier ones.

    Returns:
        ``perplexity_ratio`` (after/before), ``relative_norm`` (||update|| / ||weight||), ``natural_stops`` (a share of
        eight answers, over that of the clean model where it is below the limit).

    Raises:
        HealthError: a limit is exceeded and ``health.on_unhealthy`` is "refuse".
    """
    limits = hparams.health
    if limits.on_unhealthy == "ignore":
        return {}
    health = {
        "perplexity_ratio": perplexity_ratio(model, tokenizer, deltas, baseline.perplexity if baseline else None),
        "relative_norm": relative_norm(model, deltas),
    }
    with edited(model, deltas):
        health["natural_stops"] = natural_stops(model, tokenizer)
    if health["natural_stops"] < limits.min_natural_stops:  # a model that never stops by itself is not our doing
        before = baseline.natural_stops if baseline else natural_stops(model, tokenizer)
        health["natural_stops"] = health["natural_stops"] / before if before else 1.0
    faults = over_limits(health, limits)
    if faults and limits.on_unhealthy == "refuse":
        raise HealthError(
            "The edit was refused: " + "; ".join(faults),
            cause="too strong an update: learning rate, steps or clamp_norm_factor; or too many edits on one model",
            remedy="lower them, raise preserve.weight, edit from the clean model, or set health.on_unhealthy: warn",
        )
    if faults:
        log.warning("the edit is unhealthy: %s", "; ".join(faults))
    return health


def over_limits(health: Mapping[str, float], limits: HealthParams) -> list[str]:
    """What is wrong with the figures, in words; NaN is never right."""
    most = {"perplexity_ratio": limits.max_perplexity_ratio, "relative_norm": limits.max_relative_norm}
    faults = [
        f"{name} is {health[name]:.3g}, above the limit of {limit:g}"
        for name, limit in most.items()
        if name in health and not health[name] <= limit
    ]
    if not health.get("natural_stops", 1.0) >= limits.min_natural_stops:
        faults.append(
            f"natural_stops is {health['natural_stops']:.3g}, below the limit of {limits.min_natural_stops:g}"
        )
    return faults
