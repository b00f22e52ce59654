"""The conversation says otherwise: what a user has just said must win over what was once edited in.

The other value is an ordinary one of the same kind, from the part of the shipped values that no edit trains on.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ...clustering.lexicon import Lexicon
from ...data.panel import panel_texts
from ...data.phrasings import attributes
from ...data.records import UPQAItem
from ...generation.score import contained
from ..columns import Column
from ..evaluator import Ask, Evaluator, Record, per_user
from ..plan import Plan


class ContextWins(Evaluator):
    """Share of users whose direct question is answered with the conversation's value, and not with the edit's."""

    columns = (
        Column("context", "direct question answered with the value that the conversation states"),
        Column("edit in spite", "answered with the user's earlier value", "lower", figure="edit", places=("report",)),
    )

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The direct question behind a statement; none where the kind of attribute is not known."""
        rng = Random(f"{plan.seed}/{item.id}")
        values = other_values(item)
        if not values:
            return []
        value = rng.choice(values)
        said = (panel_texts().exchange(item.subject, value, rng),)
        return [Ask(self.name, item.question, item.target, value, said=said)]

    def grade(self, answer: Record, plan: Plan) -> float | None:
        """1 if the conversation's value stands in the answer and the edit's does not."""
        if answer.get("skipped"):
            return None
        text, wanted = answer["text"], answer["answer"]
        return float(contained(text, wanted) and not plan.rules.hit(text, answer["target"]))

    def further(self, users: Sequence[Record], plan: Plan) -> dict[str, dict[str, float]]:
        """How often the edit's value is given all the same."""
        return {"edit": per_user(users, self.answers, lambda answer: Evaluator.grade(self, answer, plan))}


def other_values(item: UPQAItem) -> list[str]:
    """Values of the item's kind none of which holds its own, or is held by it."""
    entry = Lexicon.load().find(item.subject)
    alike = [a for a in attributes() if entry and a.group == entry.group]
    trained = {value for a in alike for value in a.train["values"]}
    held = [value for a in alike if entry and a.name == entry.name for value in a.held["values"]]
    return [v for v in held if v not in trained and not contained(v, item.target) and not contained(item.target, v)]
