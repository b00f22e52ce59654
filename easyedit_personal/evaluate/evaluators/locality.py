"""Facts of the world, asked in wordings nobody trained on: the answers must be what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...data.records import UPQAItem
from ...generation.score import contained
from ..columns import Column
from ..evaluator import Ask, Record, average
from ..plan import Plan
from ..unchanged import UnchangedEvaluator


class Locality(UnchangedEvaluator):
    """Share of answers that are the same as without personalisation, case and punctuation aside."""

    columns = (
        Column("kept", "answers about the world unchanged", places=("table", "report", "damage")),
        Column("kept content", "the same, reworded ones by their similarity", figure="content", places=("report",)),
    )

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The item's locality probes."""
        return [Ask(self.name, question, item.target, answer, compare=True) for question, answer in item.locality]

    def details(self, answers: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """How often the answer is right, with and without personalisation: a changed answer need not be a wrong one."""
        asked = [answer for answer in answers if not answer.get("skipped") and answer["answer"]]
        after = average(float(contained(a["text"], a["answer"])) for a in asked)
        before = average(float(contained(a["before"], a["answer"])) for a in asked)
        return {} if after is None else {"accuracy": after, "accuracy_before": before}
