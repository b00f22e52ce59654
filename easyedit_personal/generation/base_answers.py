"""What the unedited model answers to the prompts that an edit preserves: greedy, generated once per model.

The answers are the positions at which preservation looks: where an answer begins, and along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..hparams import PersonalizationHyperParams
from ..modeling.per_model import PerModel
from ..modeling.tokens import Encoded, encode
from .generate import continuations

Answers = dict[str, tuple[int, ...]]
_ANSWERS: PerModel[Answers] = PerModel()


def with_answers(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], hparams: PersonalizationHyperParams
) -> list[Encoded]:
    """The prompts, each with the unedited model's greedy answer as its target.

    Answers are kept in memory per model fingerprint, tokenizer and format, see ``PerModel``.

    Args:
        model: in evaluation mode.
        prompts: as the user types them.
        hparams: ``prompt_format``, and ``preserve.answer_tokens``, the longest answer kept.
    """
    limit = hparams.preserve.answer_tokens
    known = _ANSWERS.get(model, tokenizer, dict, hparams.prompt_format, limit)
    new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    rows = {prompt: encode(tokenizer, prompt, prompt_format=hparams.prompt_format) for prompt in prompts}
    written = continuations(model, tokenizer, [rows[prompt] for prompt in new], [limit] * len(new))
    known.update(zip(new, map(tuple, written)))
    return [replace(rows[prompt], target_ids=known[prompt]) for prompt in prompts]
