"""Somebody else's preference ("What's my neighbor Vera's hobby?"): the model was told about this user only."""

from __future__ import annotations

from ...data.records import UPQAItem
from ..columns import Column
from ..evaluator import Ask, LeakEvaluator
from ..plan import Plan


class OtherUser(LeakEvaluator):
    """Share of users whose value is given for somebody else; lower is better."""

    columns = (Column("others", "somebody else's question answered with this user's value", "lower"),)

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The item's question about somebody else."""
        return [Ask(self.name, item.other, item.target, compare=True)] if item.other else []
