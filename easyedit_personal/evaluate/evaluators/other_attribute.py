"""Questions about what the user has never stated ("Which pet do I have?" where only a hobby is known).

Kinds so close that the value might rightly be given are left out, and so are all wordings that edits train on: the
questions are those of the bundled set about other kinds, drawn for each user with a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from ...clustering.lexicon import Lexicon
from ...data.bundle import split_of
from ...data.material import SPLITS, Entry, read_material
from ...data.panel import panel_texts
from ...data.records import UPQAItem
from ...kernels.phrasings import edited_groups
from ...kernels.preserve import Material
from ..columns import Column
from ..evaluator import Ask, LeakEvaluator, Record, per_user
from ..plan import Plan

KINDS = ("named", "indirect")
EACH = 3  # questions per user, by name and without


class OtherAttribute(LeakEvaluator):
    """Share of questions about other kinds that are answered with the user's value; lower is better."""

    columns = tuple(
        Column(f"other kinds, {kind}", f"{asked} kind answered with the value", "lower", figure=kind)
        for kind, asked in zip(KINDS, ("question that names another", "question without a name about another"))
    )

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """Three that name what they ask for, and three that do not, each about a kind of its own."""
        rng = Random(f"{plan.seed}/{item.id}")
        kinds = rng.sample(unstated_kinds(item), 2 * EACH)
        named = [rng.choice(kind["questions"]) for kind in kinds[:EACH]]
        indirect = [rng.choice(_indirect(kind, item.split)) for kind in kinds[EACH:]]
        return [
            Ask(self.name, question, item.target, kind=kind, compare=True)
            for kind, questions in zip(KINDS, (named, indirect))
            for question in questions
        ]

    def further(self, users: Sequence[Record], plan: Plan) -> dict[str, dict[str, float]]:
        """The two kinds of questions apart."""
        return {k: per_user(users, partial(self._of, k), lambda answer: self.grade(answer, plan)) for k in KINDS}

    def _of(self, kind: str, users: Sequence[Record]) -> list[Record]:
        return [answer for answer in self.answers(users) if answer["kind"] == kind]


def unstated_kinds(item: UPQAItem) -> list[Entry]:
    """The bundled set's kinds of attributes that are neither the item's own nor closely related to it."""
    lexicon = Lexicon.load()
    stated = Material.load().related(edited_groups(item.requests(1), lexicon))
    groups = {name: entry.group for name in read_material()["types"] if (entry := lexicon.find(name))}
    return [kind for name, kind in read_material()["types"].items() if groups.get(name) not in stated]


def _indirect(kind: Entry, split: str) -> list[str]:
    """Implicit and product questions of one half; data without halves get the half that nothing is tuned on."""
    own = split or SPLITS[1]
    found = [q for part in ("implicit", "product") for i, q in enumerate(kind[part]) if split_of(i) == own]
    return [question for question in found if question not in panel_texts().anybodys]
