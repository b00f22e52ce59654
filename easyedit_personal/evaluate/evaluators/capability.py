"""What the model could do before: a fixed quiz on world facts, the same for every user.

Our own small task, always at hand; lm-evaluation-harness runs the paper's tasks (see ``harness``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...data.records import UPQAItem
from ...registry import EVALUATORS
from ..health import neutral_pairs
from ..panel import Ask, Evaluator, Record, average
from ..plan import Plan
from ..score import contained


@EVALUATORS.register("capability")
class Capability(Evaluator):
    """Share of a quiz of 24 world facts that is answered rightly."""

    name = "capability"
    asked = "world quiz answered rightly"

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The whole quiz."""
        return [Ask(self.name, q, item.target, answer, compare=True) for q, answer in neutral_pairs()]

    def grade(self, answer: Record, plan: Plan) -> float | None:
        """1 if the right answer stands in what was said."""
        return None if answer.get("skipped") else float(contained(answer["text"], answer["answer"]))

    def details(self, answers: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """The same without personalisation."""
        return {"before": average(float(contained(a["before"], a["answer"])) for a in answers if a.get("before"))}
