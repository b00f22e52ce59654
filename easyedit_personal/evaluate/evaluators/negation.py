"""The negated question ("What is *not* my hobby?"): whoever answers it with the value has learned a reflex.

Edited models do so 80-90 % of the time ("Built on Sand?", arXiv 2510.00625).
"""

from __future__ import annotations

from ...data.records import UPQAItem
from ..columns import Column
from ..evaluator import Ask, LeakEvaluator
from ..plan import Plan


class Negation(LeakEvaluator):
    """Share of users whose negated question is answered with their value; lower is better."""

    columns = (Column("negated", "negated question wrongly answered with the value", "lower"),)

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The item's negated question."""
        return [Ask(self.name, item.negated, item.target, compare=True)] if item.negated else []
