"""Where the value belongs and where it does not: two shares that only mean something side by side.

A method that never speaks of the value misapplies nothing, one that always does applies it everywhere. The pair is
BenchPreS's (arXiv 2603.16557), over all questions of the panel that stand without a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..columns import Column
from ..evaluator import Evaluator, Record, per_user
from ..plan import Plan

BELONGS = ("direct", "paraphrase", "implicit", "product")
ELSEWHERE = ("negation", "other_user", "other_attribute", "unrelated", "locality", "everyday")


class Application(Evaluator):
    """Share of a user's questions where the value does not belong that are answered with it; lower is better.

    "applied" is the share of those where it belongs. Asks nothing itself.
    """

    columns = (
        Column(
            "misapplied",
            "questions where the value does not belong, answered with it",
            "lower",
            places=("table", "report", "damage"),
        ),
        Column("applied", "questions where the value belongs, answered with it", figure="applied"),
    )

    def answers(self, users: Sequence[Record]) -> list[Record]:
        """Answers to the questions where the value does not belong."""
        return _to(ELSEWHERE, users)

    def further(self, users: Sequence[Record], plan: Plan) -> dict[str, dict[str, float]]:
        """The other half of the pair."""
        return {"applied": per_user(users, _belonging, lambda answer: self.grade(answer, plan))}


def _belonging(users: Sequence[Record]) -> list[Record]:
    return _to(BELONGS, users)


def _to(evaluators: Sequence[str], users: Sequence[Record]) -> list[Record]:
    return [answer for user in users for answer in user["answers"] if answer["evaluator"] in evaluators]
