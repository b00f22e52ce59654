"""The algorithm per user: phrases, kernel, health; and the function that EasyEdit calls.

Steps and names follow "Towards Effective Model Editing for LLM Personalization" (arXiv 2512.13676); what we do
differently (joint solve, clean restore, end-of-turn in the target) is said where it is done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import HealthError
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import apply_deltas, edited, edited_copy, parameter_name, relative_norm
from ..modeling.layout import get_module, weight_of
from ..progress import log
from ..registry import KERNELS
from ..types import EditRequest, EditResult, Preference, WeightDelta
from .phrases import cluster_phrases
from .requests import as_request, check_requests

Item = Mapping[str, Any] | EditRequest | Preference


def personalize(
    model: nn.Module, tokenizer: Any, requests: Sequence[Item], hparams: PersonalizationHyperParams
) -> EditResult:
    """Compute the factors that give one user their preferences; the model stays bit for bit as it is.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        requests: the user's preferences: request dictionaries, ``EditRequest``s or ``Preference``s.
        hparams: the settings.

    Returns:
        The factors, the seconds they took, health figures and remarks.

    Raises:
        RequestError: some requests cannot be carried out; all of them are named, nothing was computed.
        HealthError: the edit would damage the model and ``health.on_unhealthy`` is "refuse".
    """
    started = time.perf_counter()
    checked = check_requests([as_request(item) for item in requests])
    phrases, notes = cluster_phrases(model, tokenizer, checked, hparams)
    for note in notes:
        log.warning(note)
    deltas = compute_deltas(model, tokenizer, phrases, hparams)
    health = check_health(model, tokenizer, deltas, hparams)
    return EditResult(deltas, time.perf_counter() - started, health, notes)


def compute_deltas(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """Run the kernel: once over all phrases (joint), or phrase after phrase, each seeing the earlier ones' edits.

    "sequential" is the paper's way: later phrases may overwrite what earlier ones wrote.
    """
    kernel = KERNELS.get(hparams.kernel)
    if hparams.strategy == "joint":
        return list(kernel(model, tokenizer, requests, hparams))
    deltas: list[WeightDelta] = []
    for request in requests:
        with edited(model, deltas):
            deltas += kernel(model, tokenizer, [request], hparams)
    return deltas


def check_health(
    model: nn.Module, tokenizer: Any, deltas: Sequence[WeightDelta], hparams: PersonalizationHyperParams
) -> dict[str, float]:
    """Perplexity on neutral text after/before and ||update|| / ||weight||, held against the limits.

    Raises:
        HealthError: a limit is exceeded and ``health.on_unhealthy`` is "refuse".
    """
    limits = hparams.health
    if limits.on_unhealthy == "ignore":
        return {}
    from ..evaluate.health import perplexity_ratio

    health = {
        "perplexity_ratio": perplexity_ratio(model, tokenizer, deltas),
        "relative_norm": relative_norm(model, deltas),
    }
    bounds = {"perplexity_ratio": limits.max_perplexity_ratio, "relative_norm": limits.max_relative_norm}
    # "not <=" and not ">": a NaN is unhealthy.
    broken = [
        f"{name} is {health[name]:.3g}, limit {bounds[name]:g}" for name in bounds if not health[name] <= bounds[name]
    ]
    if broken and limits.on_unhealthy == "refuse":
        raise HealthError(
            "The edit was refused: " + "; ".join(broken),
            cause="too strong an update: learning rate, steps or clamp_norm_factor",
            remedy="lower them, raise preserve.weight, or set health.on_unhealthy: warn",
        )
    if broken:
        log.warning("the edit is unhealthy: %s", "; ".join(broken))
    return health


def apply_personalization_to_model(
    model: nn.Module,
    tok: Any,
    requests: Sequence[Item],
    hparams: PersonalizationHyperParams,
    copy: bool = False,
    return_orig_weights: bool = False,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Personalise ``model``, in the signature that EasyEdit's editors call.

    Args:
        model: changed in place, unless ``copy``.
        tok: its tokenizer.
        requests: EasyEdit's request dictionaries; our keys "cluster" (further phrases) and "user" are read too.
        copy: leave ``model`` alone and return a second model that shares all unedited weights.
        return_orig_weights, keep_original_weight: hand back the original weights.
        kwargs: what EasyEdit passes to some of its methods; not needed here.

    Returns:
        The edited model, and ``{parameter name: original tensor}`` (empty unless asked for).
    """
    result = personalize(model, tok, requests, hparams)
    if copy:
        names = dict.fromkeys(delta.layer for delta in result.deltas)
        weights = [weight_of(get_module(model, name)) for name in names]
        saved = {parameter_name(model, weight): weight.detach().clone() for weight in weights}
        model = edited_copy(model, result.deltas)
    else:
        saved = apply_deltas(model, result.deltas)
    return model, saved if return_orig_weights or keep_original_weight else {}
