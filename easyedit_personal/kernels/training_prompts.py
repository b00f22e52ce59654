"""Which phrases an edit is trained on: those of the request, indirect questions, and some of them behind other turns.

An edit that never saw a conversation fades in one: two unrelated exchanges cost a third of the direct answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from torch import nn

from ..generation.base_answers import with_answers
from ..hparams import PersonalizationHyperParams
from ..types import EditRequest
from .base import context_limit, encode_request, group_by_cluster
from .phrasings import with_indirect
from .preserve import Material


def training_phrases(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[EditRequest]:
    """What is optimised: the requests, indirect questions, and both in turn behind other turns.

    Behind turns the asked question (the last of a preference) comes first; a preference with few phrases of its own
    has them asked behind different turns, so that they are not outnumbered.

    Args:
        model: unedited, in evaluation mode; the turns before are neutral prompts with its own answers.
        hparams: ``cluster.indirect`` and ``cluster.behind``, both per preference. What does not fit the model's context
            behind other turns is left out.
    """
    phrases = with_indirect(requests, hparams.cluster.indirect, hparams.seed)
    if not hparams.cluster.behind:
        return phrases
    rng, turns = Random(hparams.seed), small_talk(model, tokenizer, hparams)
    if not turns:  # a model without a word to say
        return phrases
    behind = []
    own = {request.prompt for request in requests}
    for members in group_by_cluster(phrases):
        named = [phrases[i] for i in reversed(members) if phrases[i].prompt in own]
        rest = [phrases[i] for i in members if phrases[i].prompt not in own] or named
        for n in range(hparams.cluster.behind):
            phrase = (named, rest)[n % 2][n // 2 % len((named, rest)[n % 2])]
            behind.append(replace(phrase, history=tuple(rng.sample(turns, min(1 + n // 2 % 2, len(turns))))))
    limit = context_limit(model)
    fitting = [r for r in behind if limit is None or len(encode_request(tokenizer, r, hparams).ids) <= limit]
    return [*phrases, *fitting]


def small_talk(model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams) -> list[tuple[str, str]]:
    """Exchanges that have nothing to do with any preference: neutral prompts and what the unedited model says."""
    prompts = Material.load(hparams.preserve.file).neutral
    rows = with_answers(model, tokenizer, prompts, hparams)
    answers = (tokenizer.decode(row.target_ids, skip_special_tokens=True).strip() for row in rows)
    return [(prompt, answer) for prompt, answer in zip(prompts, answers) if answer]
