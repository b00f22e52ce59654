"""Greetings and small tasks: what most people ask most of the time, and what a preference has nothing to do with."""

from __future__ import annotations

from ...data.panel import panel_texts
from ...data.records import UPQAItem
from ..columns import Column
from ..evaluator import Ask
from ..plan import Plan
from ..unchanged import UnchangedEvaluator


class Everyday(UnchangedEvaluator):
    """Share of ten answers that are the same as without personalisation, case and punctuation aside."""

    columns = (
        Column("everyday", "everyday answers unchanged"),
        Column("everyday content", "the same, reworded ones by their similarity", figure="content", places=("report",)),
    )

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The same ten for everybody, so that the untouched model answers them once."""
        return [Ask(self.name, text, item.target, compare=True, long=True) for text in panel_texts().everyday]
