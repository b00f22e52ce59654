"""The algorithm per user: phrases, kernel, health; and the function that EasyEdit calls.

Steps and names follow "Towards Effective Model Editing for LLM Personalization" (arXiv 2512.13676); what we do
differently (joint solve, clean restore, end-of-turn in the target) is said where it is done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..hparams import PersonalizationHyperParams
from ..kernels.apply import apply_deltas, edited_copy, in_weights, parameter_name
from ..kernels.natural import apart
from ..modeling.layout import get_module, weight_of
from ..modeling.memory import enough_for
from ..modeling.wrappers import unwrapped
from ..progress import log
from ..registry import KERNELS
from ..settings.ignored import warn_of_ignored
from ..types import EditRequest, EditResult, Preference, WeightDelta
from .health_check import check_health
from .phrases import cluster_phrases
from .requests import as_request, check_requests

Item = Mapping[str, Any] | EditRequest | Preference


def personalize(
    model: nn.Module,
    tokenizer: Any,
    requests: Sequence[Item],
    hparams: PersonalizationHyperParams,
    *,
    clean: nn.Module | None = None,
    beside: Sequence[WeightDelta] = (),
) -> EditResult:
    """Compute the factors that give one user their preferences; the model stays bit for bit as it is.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        requests: the user's preferences: request dictionaries, ``EditRequest``s or ``Preference``s.
        hparams: the settings.
        clean: the model before any edit, where ``model`` carries earlier ones: what health is held against.
        beside: factors that the user has besides; they are part of what health is asked of, and take no place twice.

    Returns:
        The factors, the seconds they took, health figures and remarks.

    Raises:
        RequestError: some requests cannot be carried out; all of them are named, nothing was computed.
        HealthError: the edit would damage the model and ``health.on_unhealthy`` is "refuse".
    """
    started, model = time.perf_counter(), unwrapped(model)
    warn_of_ignored(hparams, in_host=True)  # who asked for an editor has been told of the rest
    checked = check_requests([as_request(item) for item in requests])
    phrases, notes = cluster_phrases(model, tokenizer, checked, hparams)
    for note in notes:
        log.warning(note)
    deltas = apart(model, tokenizer, compute_deltas(model, tokenizer, phrases, hparams), beside, hparams)
    health = check_health(model, tokenizer, [*beside, *deltas], hparams, clean)
    return EditResult(deltas, time.perf_counter() - started, health, notes)


def compute_deltas(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """Run the kernel: once over all phrases (joint), or phrase after phrase, each seeing the earlier ones' edits.

    "sequential" is the paper's way: later phrases may overwrite what earlier ones wrote.

    Raises:
        ModelError: the memory does not suffice, or see the kernel.
    """
    kernel = KERNELS.get(hparams.kernel)
    with enough_for("an edit", model):
        if hparams.strategy == "joint":
            return list(kernel(model, tokenizer, requests, hparams))
        deltas: list[WeightDelta] = []
        for request in requests:
            with in_weights(model, deltas):
                deltas += kernel(model, tokenizer, [request], hparams)
        return deltas


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
    inner = unwrapped(model)
    if copy:
        names = dict.fromkeys(delta.layer for delta in result.deltas)
        weights = [weight_of(get_module(inner, name)) for name in names]
        saved = {parameter_name(inner, weight): weight.detach().clone() for weight in weights}
        model = edited_copy(inner, result.deltas)
    else:
        saved = apply_deltas(inner, result.deltas)
    return model, saved if return_orig_weights or keep_original_weight else {}
