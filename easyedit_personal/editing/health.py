"""Is the edited model still well: perplexity on neutral text, before and after.

Perplexity is a cheap alarm for the collapse that edits can cause (arXiv 2402.09656). The text is talk about the
world, none of it among the prompts that edits preserve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..data.material import world_facts
from ..errors import RequestError
from ..generation.generate import generate
from ..kernels.apply import edited
from ..modeling.layout import input_device
from ..modeling.tokens import Encoded, collate, encode
from ..types import WeightDelta

TEXTS = 24
STOP_TEXTS, STOP_TOKENS = 8, 48


@lru_cache(maxsize=1)
def neutral_pairs() -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs about the world, in held-out wordings, spread evenly over all facts."""
    facts = world_facts()
    chosen = facts[:: max(1, len(facts) // TEXTS)][:TEXTS]
    return tuple((fact["heldout_phrasings"][0], str(fact["answer"])) for fact in chosen)


@torch.no_grad()
def perplexity(model: nn.Module, tokenizer: Any, pairs: Sequence[tuple[str, str]] | None = None) -> float:
    """exp of the mean loss (nats per token) over questions, answers and ends of turn.

    Args:
        pairs: (question, answer) texts; None takes ``neutral_pairs()``.
    """
    rows = [encode(tokenizer, question, target=answer) for question, answer in pairs or neutral_pairs()]
    batch = collate([Encoded(row.ids, (), 0) for row in rows], tokenizer, side="right", device=input_device(model))
    logits = model(**batch.model_inputs()).logits[:, :-1].float()
    wanted = batch.input_ids[:, 1:].masked_fill(batch.attention_mask[:, 1:] == 0, -100)
    return math.exp(min(700.0, float(F.cross_entropy(logits.flatten(0, 1), wanted.flatten()))))


def perplexity_ratio(
    model: nn.Module, tokenizer: Any, deltas: Sequence[WeightDelta], base: float | None = None
) -> float:
    """Perplexity with the updates over perplexity without: 1 is unharmed; infinity or NaN is a broken model.

    Args:
        model: without the updates; bit for bit the same afterwards.
        base: its perplexity, where it is known.
    """
    before = perplexity(model, tokenizer) if base is None else base
    with edited(model, deltas):
        return perplexity(model, tokenizer) / before


def natural_stops(model: nn.Module, tokenizer: Any) -> float:
    """Share of eight neutral questions whose answers end by themselves within 48 tokens.

    A model that an edit has broken tends to go on for ever, sometimes before perplexity shows it. 1 for a context that
    has no room for them, which tells nothing.
    """
    questions = [question for question, _ in neutral_pairs()[:: TEXTS // STOP_TEXTS]][:STOP_TEXTS]
    try:
        answers = generate(model, tokenizer, questions, max_new_tokens=STOP_TOKENS)
    except RequestError:
        return 1.0
    return sum(answer.stopped for answer in answers) / len(answers)
