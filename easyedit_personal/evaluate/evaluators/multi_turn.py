"""The final question after 0, 2, 4, ... unrelated exchanges: what a prompt says fades, what was edited in should not.

The conversation always goes through the chat template where there is one. What does not fit the model's context is
said and left out, never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...data.records import UPQAItem
from ..columns import Column
from ..evaluator import Ask, Evaluator, Record
from ..plan import Plan
from ..summary import mean_interval

KINDS = {"direct": "question", "paraphrase": "paraphrase", "implicit": "implicit"}


class MultiTurn(Evaluator):
    """Share of final questions answered with the value, over all numbers of turns; ``by_turns`` has each."""

    targeted = True
    columns = (Column("after turns", "value given after unrelated turns", places=("report",)),)

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """Direct, paraphrased and implicit question after each number of turns."""
        questions = {kind: getattr(item, field) for kind, field in KINDS.items()}
        return [
            Ask(self.name, question, item.target, kind=kind, turns=turns, cut=32)
            for turns in plan.turns
            for kind, question in questions.items()
            if question
        ]

    def details(self, answers: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """Per number of turns and kind of question: the share with its interval, and how many did not fit."""
        table: dict[str, dict[str, Any]] = {}
        for turns in plan.turns:
            rows = [answer for answer in answers if answer["turns"] == turns]
            kinds = {kind: [a for a in rows if a["kind"] == kind] for kind in KINDS}
            table[str(turns)] = {kind: self._share(group, plan) for kind, group in kinds.items() if group}
            table[str(turns)]["not_fitting"] = sum(bool(answer.get("skipped")) for answer in rows)
        return {"by_turns": table}

    def _share(self, answers: Sequence[Record], plan: Plan) -> dict[str, Any]:
        grades = [grade for answer in answers if (grade := self.grade(answer, plan)) is not None]
        if not grades:
            return {"mean": None, "n": 0, "ci95": [None, None]}
        interval = mean_interval(grades, plan.seed)
        return {"mean": interval.mean, "n": interval.n, "ci95": [interval.low, interval.high]}
