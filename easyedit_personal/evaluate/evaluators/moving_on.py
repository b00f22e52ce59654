"""What comes after an answer that used the preference: thanks, news, another question.

An edit that opens here says the same again and again, and a conversation goes in circles.
"""

from __future__ import annotations

from random import Random

from ...data.material import fill
from ...data.panel import panel_texts
from ...data.records import UPQAItem
from ..columns import Column
from ..evaluator import Ask, LeakEvaluator
from ..plan import Plan


class MovingOn(LeakEvaluator):
    """Share of what is said next that is answered with the value once more; lower is better.

    The model without any personalisation sees the same conversation, and takes up some of it: "before" says how much.
    """

    columns = (
        Column("circles", "after an answer that used the value, something else is answered with it", "lower"),
        Column("circles before", "the same without personalisation", "lower", figure="before", places=("report",)),
    )

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """Everything of the panel that may be said next, behind the indirect question and an answer to it."""
        rng, texts = Random(f"{plan.seed}/{item.id}"), panel_texts()
        if not item.implicit:
            return []
        asks = []
        for text in texts.next:
            answer = fill(rng.choice(texts.used), n=item.subject, v=item.target)
            asks.append(Ask(self.name, text, item.target, said=((item.implicit, answer),), compare=True))
        return asks
