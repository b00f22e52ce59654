"""Scores that need more than the text: a judge's verdict and embedding similarity, added to kept answers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..generation.score import embedding_similarity
from .judge import make_judge
from .verdicts import Claim, Judge

Users = list[dict[str, Any]]


class Scorer:
    """Adds "judge" and "similarity" to the answers that are to give the user's value.

    Args:
        judge: None for none.
        embedder: None for no similarity.
    """

    def __init__(self, judge: Judge | None, embedder: Any = None) -> None:
        self.judge, self.embedder = judge, embedder

    def __call__(self, users: Users, evaluators: Collection[str]) -> None:
        """Score some users' kept answers to some evaluators' questions, in place."""
        answers = [a for user in users for a in user["answers"] if a["evaluator"] in evaluators]
        answers = [answer for answer in answers if not answer.get("skipped")]
        if self.judge is not None:
            _judge(self.judge, answers)
        if self.embedder is not None:
            texts, targets = [a["text"] for a in answers], [a["target"] for a in answers]
            for answer, value in zip(answers, embedding_similarity(texts, targets, self.embedder)):
                answer["similarity"] = value

    def describe(self) -> dict[str, Any]:
        """Who scored, and what it cost."""
        costs = {} if self.judge is None else {"judge": {"name": self.judge.name, **asdict(self.judge.usage)}}
        return costs | ({} if self.embedder is None else {"similarity": type(self.embedder).__name__})


def make_scorer(judge: str | None, model: str, similarity: bool, folder: Path) -> Scorer:
    """A scorer from what users write.

    Args:
        judge: see ``make_judge``; None for none.
        folder: where verdicts are kept.

    Raises:
        ConfigError, MissingDependencyError: the judge or the encoder cannot be had; found before anything runs.
    """
    found = make_judge(judge, model, folder / "verdicts.jsonl") if judge else None
    return Scorer(found, _encoder() if similarity else None)


def _judge(judge: Judge, answers: list[dict[str, Any]]) -> None:
    verdicts = judge.judge([Claim(a["question"], a["target"], a["text"]) for a in answers])
    for answer, verdict in zip(answers, verdicts):
        answer["judge"] = float(verdict)


def _encoder() -> Any:
    from ..clustering.embed import SentenceEmbedder

    embedder = SentenceEmbedder()
    embedder.embed(["hello"])  # what is missing shows here, before a model is loaded
    return embedder
