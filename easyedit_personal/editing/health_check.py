"""The health check: what an edit may do to the model, looked at before the edit is kept.

Four figures against ``health`` in the YAML: perplexity on neutral text, the size of the update, and of the answers to
what people say first, whether they still end and how much they would surprise the unedited model. Edits that follow
each other on one model are held against the model before the first: each small step would pass against the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import HealthError
from ..hparams import HealthParams, PersonalizationHyperParams
from ..progress import log
from ..types import WeightDelta
from .health_figures import health_figures


def check_health(
    model: nn.Module,
    tokenizer: Any,
    deltas: Sequence[WeightDelta],
    hparams: PersonalizationHyperParams,
    clean: nn.Module | None = None,
) -> dict[str, float]:
    """The figures of the model with the updates; empty where ``health.on_unhealthy`` is "ignore".

    Args:
        model: without the updates; bit for bit the same afterwards.
        clean: the model before any edit, where ``model`` carries earlier ones.

    Returns:
        See ``health_figures``.

    Raises:
        HealthError: a limit is exceeded and ``health.on_unhealthy`` is "refuse".
    """
    if hparams.health.on_unhealthy == "ignore":
        return {}
    (health,) = health_figures(model, tokenizer, [deltas], hparams, clean)
    return judged(health, hparams.health)


def judged(health: dict[str, float], limits: HealthParams) -> dict[str, float]:
    """The figures, if they may pass; what is unhealthy is refused or warned of, as ``on_unhealthy`` says.

    Raises:
        HealthError: a limit is exceeded and ``on_unhealthy`` is "refuse".
    """
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
    most = {
        "perplexity_ratio": limits.max_perplexity_ratio,
        "relative_norm": limits.max_relative_norm,
        "surprise": limits.max_surprise,
    }
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
