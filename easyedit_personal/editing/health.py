"""Is the edited model still well: perplexity on neutral text, and what it says when a person begins to talk.

Perplexity is a cheap alarm for the collapse that edits can cause (arXiv 2402.09656). It does not notice an edit that
answers every greeting with the value, nor always garbled words: the unedited model does, when it is shown the answers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.material import world_facts
from ..generation.generate import continuations, encode_prompt
from ..generation.score import log_likelihoods
from ..modeling.kept import Tensors, kept
from ..modeling.layout import context_limit, tokenizer_fingerprint
from ..modeling.per_model import PerModel
from ..modeling.tokens import Encoded, encode, stop_ids

VERSION = "1"  # of what is kept of a model; files of other versions are not read
TEXTS = 24
# What people say first, and then ask for; about nothing that is edited, and none of it among the preserved prompts.
# Small models answer two thirds of it briefly, so that it shows whether answers end.
FIRST_QUESTIONS = (
    "Hi!",
    "Good evening!",
    "Who are you?",
    "How are you today?",
    "Thank you, that helped a lot.",
    "Bye!",
    "Tell me something nice.",
    "What is 2 plus 3?",
    "Name a continent.",
    "Translate 'good night' into French.",
    "List three kinds of fruit.",
    "Write a line of Python that prints the word hello.",
)
ANSWER_TOKENS = 32
TOGETHER, MOST = 4, 24  # answers to one question from which on they are read together; rows of one pass


@lru_cache(maxsize=1)
def neutral_pairs() -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs about the world, in held-out wordings, spread evenly over all facts."""
    facts = world_facts()
    chosen = facts[:: max(1, len(facts) // TEXTS)][:TEXTS]
    return tuple((fact["heldout_phrasings"][0], str(fact["answer"])) for fact in chosen)


def perplexity(model: nn.Module, tokenizer: Any, pairs: Sequence[tuple[str, str]] | None = None) -> float:
    """exp of the mean loss (nats per token) over questions, answers and ends of turn.

    Args:
        pairs: (question, answer) texts; None takes ``neutral_pairs()``.
    """
    rows = [encode(tokenizer, question, target=answer) for question, answer in pairs or neutral_pairs()]
    loss = -float(torch.cat(log_likelihoods(model, tokenizer, rows)).mean())
    return math.exp(min(700.0, loss))


@dataclass(frozen=True, slots=True)
class HealthBaseline:
    """A model before any edit.

    Attributes:
        perplexity: on neutral text.
        rows: those of ``FIRST_QUESTIONS`` that fit the model's context, with its own greedy answers of at most
            ``ANSWER_TOKENS``.
        likelihoods: of these answers, mean log-probability in nats per token.
    """

    perplexity: float
    rows: tuple[Encoded, ...]
    likelihoods: tuple[float, ...]

    @classmethod
    def of(cls, model: nn.Module, tokenizer: Any, folder: Path | None = None) -> HealthBaseline:
        """Measured once per model and folder; kept in ``folder`` for other processes, where one is given."""
        return _BASELINES.get(model, tokenizer, lambda: cls._kept(model, tokenizer, folder), folder)

    @classmethod
    def _kept(cls, model: nn.Module, tokenizer: Any, folder: Path | None) -> HealthBaseline:
        asked = _questions_that_fit(model, tokenizer)

        def measured() -> tuple[Tensors, dict[str, Any]]:
            rows = answered(model, tokenizer, asked)
            likelihoods = torch.tensor(_likelihoods(model, tokenizer, rows), dtype=torch.float64)
            said = [row.target_ids for row in rows]
            return {"likelihoods": likelihoods}, {"perplexity": perplexity(model, tokenizer), "answers": said}

        if folder is None:
            tensors, values = measured()
        else:
            looked_at = (VERSION, tokenizer_fingerprint(tokenizer), ANSWER_TOKENS, asked, neutral_pairs())
            name = hashlib.sha256(repr(looked_at).encode()).hexdigest()[:16]
            tensors, values = kept(folder / f"health-{name}.safetensors", measured)
        rows = tuple(replace(row, target_ids=tuple(said)) for row, said in zip(asked, values["answers"]))
        return cls(values["perplexity"], rows, tuple(tensors["likelihoods"].tolist()))

    def surprise(self, model: nn.Module, tokenizer: Any, rows: Sequence[Encoded]) -> float:
        """By how much less likely this model finds other answers than its own, on average, in nats per token.

        Near 0 for other words of the same kind, negative for blander ones. On SmolLM2-135M: garbled text 2.6, fluent
        answers of a damaged model 0.6, the value as the answer to everything 4.0 (perplexity ratio 0.93).

        Args:
            model: the one that the baseline is of.
            rows: the same questions with another model's answers.
        """
        return self.surprises(model, tokenizer, [rows])[0]

    def surprises(self, model: nn.Module, tokenizer: Any, many: Sequence[Sequence[Encoded]]) -> list[float]:
        """As ``surprise``, of several models' answers; who says the same is looked at once."""
        new = [row for rows in many for row, own in zip(rows, self.rows) if row != own]
        different = list(dict.fromkeys(new))
        found = dict(zip(different, _likelihoods(model, tokenizer, different)))
        return [
            sum(
                likelihood - found[row] for row, own, likelihood in zip(rows, self.rows, self.likelihoods) if row != own
            )
            / max(1, len(self.rows))
            for rows in many
        ]

    def natural_stops(self, model: nn.Module, tokenizer: Any, rows: Sequence[Encoded]) -> float:
        """Of the answers that this model ends by itself, the share that other answers end too; 1 where there are none.

        A model that an edit has broken tends to go on for ever, sometimes before perplexity shows it.
        """
        ends = stop_ids(model, tokenizer)
        stopped = [row.target_ids[-1] in ends for row, own in zip(rows, self.rows) if own.target_ids[-1] in ends]
        return sum(stopped) / len(stopped) if stopped else 1.0


_BASELINES: PerModel[HealthBaseline] = PerModel()


def answered(model: nn.Module, tokenizer: Any, rows: Sequence[Encoded]) -> list[Encoded]:
    """The rows with the model's greedy answers in place of those that they hold."""
    asked = [replace(row, target_ids=()) for row in rows]
    said = continuations(model, tokenizer, asked, [ANSWER_TOKENS] * len(asked))
    return [replace(row, target_ids=tuple(answer)) for row, answer in zip(asked, said)]


def _questions_that_fit(model: nn.Module, tokenizer: Any) -> list[Encoded]:
    rows = [encode_prompt(tokenizer, question) for question in FIRST_QUESTIONS]
    limit = context_limit(model)
    return [row for row in rows if limit is None or len(row.ids) + ANSWER_TOKENS <= limit]


def _likelihoods(model: nn.Module, tokenizer: Any, rows: Sequence[Encoded]) -> list[float]:
    """Mean log-probability of each row's answer, in nats per token."""
    found: dict[int, float] = {}
    for part in _alike(rows):
        for number, each in zip(part, log_likelihoods(model, tokenizer, [rows[number] for number in part])):
            found[number] = float(each[-len(rows[number].target_ids) :].mean())
    return [found[number] for number in range(len(rows))]


def _alike(rows: Sequence[Encoded]) -> list[list[int]]:
    """Numbers of the rows that are read together: answers to one question, which is then read once; the others."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        by_prompt.setdefault(row.prompt_ids, []).append(number)
    others = [number for part in by_prompt.values() if len(part) < TOGETHER for number in part]
    parts = [part for part in by_prompt.values() if len(part) >= TOGETHER] + [others]
    return [part[start : start + MOST] for part in parts for start in range(0, len(part), MOST)]
