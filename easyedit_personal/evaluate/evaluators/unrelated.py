"""Neutral questions without one right answer: does the value leak into them?

Fine-tuning on a single answer is prone to it: a model that says the value to everything scores 100 % elsewhere.
"""

from __future__ import annotations

from ...data.records import UPQAItem
from ..columns import Column
from ..evaluator import Ask, LeakEvaluator
from ..plan import Plan


class Unrelated(LeakEvaluator):
    """Share of neutral questions answered with the user's value; lower is better."""

    columns = (Column("leak", "value leaks into unrelated questions", "lower"),)

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The item's neutral questions."""
        return [Ask(self.name, question, item.target, compare=True) for question in item.unrelated]
