"""PersonalizationEditor: one user's preferences as low-rank updates of a few matrices."""

from typing import Any, Dict, List, Tuple  # noqa: UP035 - as in the other methods

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...util.personal_package import personal_package
from .personalization_hparams import PersonalizationHyperParams


def apply_personalization_to_model(
    model: AutoModelForCausalLM,
    tok: AutoTokenizer,
    requests: List[Dict],  # noqa: UP006
    hparams: PersonalizationHyperParams,
    copy: bool = False,
    return_orig_weights: bool = False,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> Tuple[AutoModelForCausalLM, Dict[str, torch.Tensor]]:  # noqa: UP006
    """
    Returns a model that answers with the user's preferences.
    :param requests: besides the usual keys, "user" and "cluster" (further phrases) are read; "subject" is optional
    :param copy: leave `model` alone; the second model shares all weights but the edited ones
    :return: (1) the updated model, (2) the original weights that changed
    """
    return personal_package().apply_personalization_to_model(
        model,
        tok,
        requests,
        hparams,
        copy=copy,
        return_orig_weights=return_orig_weights,
        keep_original_weight=keep_original_weight,
    )
