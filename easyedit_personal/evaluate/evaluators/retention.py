"""An earlier preference after later ones of the same user: sequential edits are known to overwrite each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...data.records import UPQAItem
from ...generation.generate import generate
from ..columns import Column
from ..evaluator import Case, Evaluator


class Retention(Evaluator):
    """Share of direct and paraphrased questions about the first preference still answered after ``plan.later`` more."""

    targeted = True
    columns = (Column("retained", "first preference kept after later ones"),)

    def after(self, case: Case) -> dict[str, Any]:
        """Personalise anew for this preference and later ones on other things, then ask for the first."""
        later = later_preferences(case.items, case.item, case.plan.later)
        if not later:
            return {}
        asked = {"direct": case.item.question, "paraphrase": case.item.paraphrase}
        preferences = [case.item, *later]
        with case.method.personalize(case.model, case.tokenizer, preferences, case.plan.cluster_size) as session:
            answers = generate(
                session.model,
                case.tokenizer,
                [session.conversation(question) for question in asked.values()],
                prompt_format=case.plan.rules.prompt_format,
                max_new_tokens=case.plan.max_new_tokens,
            )
        shared = {"evaluator": self.name, "turns": 0, "answer": "", "target": case.item.target, "later": len(later)}
        return {
            "answers": [
                {**shared, "kind": kind, "question": question, "text": answer.text, "stopped": answer.stopped}
                for (kind, question), answer in zip(asked.items(), answers)
            ]
        }


def later_preferences(items: Sequence[UPQAItem], item: UPQAItem, count: int) -> list[UPQAItem]:
    """The next ``count`` items, cyclically, about things that differ from this one and from each other."""
    start = next(i for i, other in enumerate(items) if other.id == item.id)
    taken = {item.subject}
    later: list[UPQAItem] = []
    for other in [*items[start + 1 :], *items[:start]]:
        if other.subject not in taken and len(later) < count:
            taken.add(other.subject)
            later.append(other)
    return later
