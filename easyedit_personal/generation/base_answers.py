"""What the unedited model answers to the prompts that an edit preserves: greedy, generated once per model.

The answers are the positions at which preservation looks: where an answer begins, and along it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import fingerprint, tokenizer_fingerprint
from ..modeling.memory import in_halves
from ..modeling.tokens import Encoded, collate, encode, stop_ids

Answers = dict[str, tuple[int, ...]]
MODELS_KEPT = 4
BATCH = 32
_ANSWERS: OrderedDict[tuple[Any, ...], Answers] = OrderedDict()


def with_answers(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], hparams: PersonalizationHyperParams
) -> list[Encoded]:
    """The prompts, each with the unedited model's greedy answer as its target.

    Answers are kept in memory per model fingerprint, tokenizer and format, for the last ``MODELS_KEPT`` models.

    Args:
        model: in evaluation mode.
        prompts: as the user types them.
        hparams: ``prompt_format``, and ``preserve.answer_tokens``, the longest answer kept.
    """
    limit = hparams.preserve.answer_tokens
    known = _known((fingerprint(model), tokenizer_fingerprint(tokenizer), hparams.prompt_format, limit))
    new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    rows = {prompt: encode(tokenizer, prompt, prompt_format=hparams.prompt_format) for prompt in prompts}
    for start in range(0, len(new), BATCH):
        part = new[start : start + BATCH]
        write = lambda some: greedy(model, tokenizer, [rows[prompt] for prompt in some], limit)
        known.update(zip(part, chain.from_iterable(in_halves(write, part, "prompts"))))
    return [replace(rows[prompt], target_ids=known[prompt]) for prompt in prompts]


@torch.no_grad()
def greedy(model: nn.Module, tokenizer: Any, rows: Sequence[Encoded], limit: int) -> list[tuple[int, ...]]:
    """The most likely continuation of each row, up to and with its end token, at most ``limit`` tokens."""
    ends = set(stop_ids(model, tokenizer))
    batch = collate(rows, tokenizer, side="left", device=next(model.parameters()).device)
    cache = DynamicCache()
    inputs, mask, positions = batch.input_ids, batch.attention_mask, batch.position_ids
    answers: list[list[int]] = [[] for _ in rows]
    for _ in range(limit):
        output = model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        inputs = output.logits[:, -1:].argmax(-1)
        for answer, token in zip(answers, inputs[:, 0].tolist()):
            if not answer or answer[-1] not in ends:
                answer.append(token)
        if all(answer[-1] in ends for answer in answers):
            break
        mask = torch.cat([mask, torch.ones_like(inputs)], 1)
        positions = positions[:, -1:] + 1
    return [tuple(answer) for answer in answers]


def _known(key: tuple[Any, ...]) -> Answers:
    """The answers kept for one model; the least recently used model's are dropped."""
    answers = _ANSWERS.setdefault(key, {})
    _ANSWERS.move_to_end(key)
    while len(_ANSWERS) > MODELS_KEPT:
        _ANSWERS.popitem(last=False)
    return answers
