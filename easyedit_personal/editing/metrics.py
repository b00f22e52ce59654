"""The figures that ``edit`` hands back, in the shape and under the names of EasyEdit's own metrics.

Accuracies are teacher-forced (share of the target's tokens that the model would say next), as EasyEdit's; beside
them stands what the model really answers, generated to its natural stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ..generation.generate import generate
from ..generation.score import teacher_forced_tokens
from ..hparams import PersonalizationHyperParams

Request = Mapping[str, Any]


def measure(model: nn.Module, tokenizer: Any, request: Request, hparams: PersonalizationHyperParams) -> dict[str, Any]:
    """Figures of one request on the model as it is now.

    Returns:
        ``rewrite_acc``, ``rephrase_acc``, ``portability`` {name_acc} and ``locality`` {name_output: predicted
        tokens}, each a list as in EasyEdit, and ``rewrite_gen_content``: the answers to the edited prompt.
    """
    probes = _probes(request)
    pairs = [(prompt, truth) for _, prompt, truth in probes]
    tokens = teacher_forced_tokens(model, tokenizer, pairs, prompt_format=hparams.prompt_format)
    figures: dict[str, Any] = {"locality": {}, "portability": {}}
    for (name, _, _), (predicted, wanted) in zip(probes, tokens):
        section, _, probe = name.partition(".")
        if section == "locality":
            figures["locality"].setdefault(f"{probe}_output", []).append(predicted)
        elif section == "portability":
            figures["portability"].setdefault(f"{probe}_acc", []).append(_share_equal(predicted, wanted))
        else:
            figures.setdefault(f"{section}_acc", []).append(_share_equal(predicted, wanted))
    answers = generate(model, tokenizer, [request["prompt"]], prompt_format=hparams.prompt_format)
    figures["rewrite_gen_content"] = [answer.text for answer in answers]
    return figures


def finish_locality(case: dict[str, Any]) -> None:
    """Add ``name_acc`` to a case's locality figures: the share of tokens that are as before the edit."""
    before, after = case["pre"]["locality"], case["post"]["locality"]
    for key in [key for key in after if key.endswith("_output")]:
        pairs = zip(before[key], after[key])
        after[key.removesuffix("_output") + "_acc"] = [_share_equal(old, new) for old, new in pairs]


def _probes(request: Request) -> list[tuple[str, str, str]]:
    """(section or section.name, prompt, expected answer) of everything that is asked about one request."""
    probes = [("rewrite", request["prompt"], request["target_new"])]
    if request.get("rephrase_prompt"):
        probes += [("rephrase", prompt, request["target_new"]) for prompt in _listed(request["rephrase_prompt"])]
    for section in ("locality", "portability"):
        for name, probe in (request.get(section) or {}).items():
            pairs = zip(_listed(probe["prompt"]), _listed(probe["ground_truth"]))
            probes += [(f"{section}.{name}", prompt, truth) for prompt, truth in pairs]
    return probes


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _share_equal(left: Sequence[int], right: Sequence[int]) -> float:
    return float(np.mean(np.equal(left, right))) if len(left) else 1.0
