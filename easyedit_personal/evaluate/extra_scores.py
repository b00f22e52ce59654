"""Scores that need more than the text: a judge's verdict and embedding similarity, added to kept answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .judge import make_judge
from .score import embedding_similarity
from .verdicts import Claim, Judge

TARGETED = ("direct", "paraphrase", "implicit", "product", "multi_turn", "retention")
Users = list[dict[str, Any]]


def make_scorer(judge: str | None, model: str, similarity: bool, folder: Path) -> Callable[[Users], None]:
    """A function that adds "judge" and "similarity" to the answers that are to give the user's value.

    Args:
        judge: see ``make_judge``; None for none.
        folder: where verdicts are kept.

    Raises:
        ConfigError, MissingDependencyError: the judge or the encoder cannot be had; found before anything runs.
    """
    found = make_judge(judge, model, folder / "verdicts.jsonl") if judge else None
    embedder = _encoder() if similarity else None

    def score(users: Users) -> None:
        answers = [a for user in users for a in user["answers"] if a["evaluator"] in TARGETED and not a.get("skipped")]
        if found is not None:
            _judge(found, answers)
        if embedder is not None:
            values = embedding_similarity([a["text"] for a in answers], [a["target"] for a in answers], embedder)
            for answer, value in zip(answers, values):
                answer["similarity"] = value

    return score


def _judge(judge: Judge, answers: list[dict[str, Any]]) -> None:
    verdicts = judge.judge([Claim(a["question"], a["target"], a["text"]) for a in answers])
    for answer, verdict in zip(answers, verdicts):
        answer["judge"] = float(verdict)


def _encoder() -> Any:
    from ..clustering.embed import SentenceEmbedder

    embedder = SentenceEmbedder()
    embedder.embed(["hello"])  # what is missing shows here, before a model is loaded
    return embedder
