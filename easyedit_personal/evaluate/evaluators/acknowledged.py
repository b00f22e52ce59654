"""PrefEval's open questions: does the answer take up the preference at all?

Its preferences are sentences, which nobody repeats word for word; PrefEval asks a language model (``--judge``). Without
one, shared content words are a rough sign, and what ``zero_shot`` gets shows what chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...generation.score import taken_up
from ..columns import Column
from ..evaluator import Evaluator, Record
from ..plan import Plan


class Acknowledged(Evaluator):
    """Share of implicit questions answered with a third of the preference's content words; asks nothing itself."""

    columns = (Column("acknowledged", "implicit answers that take up the preference"),)

    def answers(self, users: Sequence[Record]) -> list[Record]:
        """Those to implicit questions."""
        return [answer for user in users for answer in user["answers"] if answer["evaluator"] == "implicit"]

    def grade(self, answer: Record, plan: Plan) -> float | None:
        """1 if enough of the words stand in the answer that do not stand in the question."""
        if answer.get("skipped"):
            return None
        return float(taken_up(answer["text"], answer["target"], answer["question"]))
