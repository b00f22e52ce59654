"""Base of evaluators whose answers must stay as they were: word for word, or at least in what they say.

A reworded answer is a change, but not the same as a wrong one; so both figures are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..baselines.retrieval import sentence_embedder
from ..clustering.embed import TfidfEmbedder
from ..generation.score import embedding_similarity, normalise
from .evaluator import Case, Evaluator, Record
from .plan import Plan


class UnchangedEvaluator(Evaluator):
    """Share of answers that are the same as without personalisation, case and punctuation aside.

    "content" takes for every other answer its cosine similarity with the earlier one under a sentence encoder, or
    under weighted character n-grams where none is installed; "content_by" says which.
    """

    def grade(self, answer: Record, plan: Plan) -> float | None:
        """1 if the answer is as before."""
        return None if answer.get("skipped") else float(_same(answer))

    def after(self, case: Case) -> dict[str, Any]:
        """The user's content similarity, now, since rescoring must not need an encoder."""
        answers = [a for a in case.answers if a["evaluator"] == self.name and not a.get("skipped")]
        if not answers:
            return {}
        if "embedder" not in case.base:
            case.base["embedder"] = sentence_embedder() or TfidfEmbedder()
        embedder = case.base["embedder"]
        changed = [answer for answer in answers if not _same(answer)]
        texts, before = [a["text"] for a in changed], [a["before"] for a in changed]
        alike = len(answers) - len(changed) + sum(embedding_similarity(texts, before, embedder))
        return {"content": alike / len(answers), "content_by": type(embedder).__name__}

    def further(self, users: Sequence[Record], plan: Plan) -> dict[str, dict[str, float]]:
        """The users' content similarities."""
        found = {user["user"]: user["figures"].get(self.name, {}).get("content") for user in users}
        return {"content": {user: value for user, value in found.items() if value is not None}}

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """The two shares, and what compared the answers."""
        by = {one["content_by"] for user in users if "content_by" in (one := user["figures"].get(self.name, {}))}
        return {**super().metric(users, plan), **({"content_by": ", ".join(sorted(by))} if by else {})}


def _same(answer: Record) -> bool:
    return normalise(answer["text"]) == normalise(answer["before"])
