"""What comes after an answer that used the preference: thanks, news, another question; or the same question again.

An edit that opens at all of them says the same again and again, and a conversation goes in circles. A model does so
without any edit, too: ``zero_shot`` in the same run says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ...data.material import fill
from ...data.panel import panel_texts
from ...data.records import UPQAItem
from ..columns import Column
from ..evaluator import Ask, Evaluator, Record, per_user
from ..plan import Plan

AGAIN = "again"


class MovingOn(Evaluator):
    """Share of what is said next that is answered with the value once more; lower is better.

    Beside it the edited question, asked behind the same answer: there the value belongs.
    """

    columns = (
        Column("circles", "something else, said behind an answer that used the value, is answered with it", "lower"),
        Column("asked again", "the direct question behind such an answer", figure=AGAIN, places=("report",)),
    )

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """Everything of the panel that may be said next, behind the indirect question and an answer to it."""
        rng, texts = Random(f"{plan.seed}/{item.id}"), panel_texts()
        if not item.implicit:
            return []
        asks = []
        for text, kind in (*((text, "next") for text in texts.next), (item.question, AGAIN)):
            answer = fill(rng.choice(texts.used), n=item.subject, v=item.target)
            asks.append(Ask(self.name, text, item.target, kind=kind, said=((item.implicit, answer),)))
        return asks

    def grade(self, answer: Record, plan: Plan) -> float | None:
        """Whether the value is said once more; the question that asks for it does not count."""
        return None if answer["kind"] == AGAIN else super().grade(answer, plan)

    def further(self, users: Sequence[Record], plan: Plan) -> dict[str, dict[str, float]]:
        """How often the value is said where it is asked for again."""
        again = lambda answer: super(MovingOn, self).grade(answer, plan) if answer["kind"] == AGAIN else None
        return {AGAIN: per_user(users, self.answers, again)}
