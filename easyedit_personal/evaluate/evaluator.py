"""The panel's vocabulary: what is asked (Ask), whom it is asked of (Case), and what an evaluator is.

An evaluator asks, and later grades what was kept of the answers; it never needs the model for grading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..baselines.base import Method, Session
from ..data.records import UPQAItem
from ..generation.score import exact, token_f1
from ..registry import EVALUATORS
from ..validation import section_of
from .columns import Column
from .plan import Plan
from .summary import Interval, mean_interval

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question put to the personalised model.

    Attributes:
        evaluator: who asks.
        question: as the user types it.
        target: the user's value.
        answer: the right answer of a question about the world.
        kind: which of several kinds of questions one evaluator asks.
        turns: unrelated exchanges before it.
        said: further exchanges before it, after those, as (user's text, assistant's text).
        long: whether the answer is one that takes room: it may run to twice ``Plan.max_new_tokens``.
        compare: ask the model without any personalisation, too.
        forced: also score the target's tokens under teacher forcing.
        cut: where the paper's protocol cuts the answer, in tokens beyond the target's length.
    """

    evaluator: str
    question: str
    target: str
    answer: str = ""
    kind: str = ""
    turns: int = 0
    said: tuple[tuple[str, str], ...] = ()
    long: bool = False
    compare: bool = False
    forced: bool = False
    cut: int = 8


@dataclass(frozen=True)
class Case:
    """One user under one method, as evaluators that need the model see it.

    Attributes:
        model: the model without any personalisation (edited in place while a session is open).
        session: open while ``measure`` runs, closed when ``after`` does.
        base: what is known of the untouched model: "digest" of all weights and "perplexity".
        answers: what is kept of this user's answers, for ``after``; empty while ``measure`` runs.
    """

    model: nn.Module
    tokenizer: Any
    method: Method
    session: Session
    item: UPQAItem
    items: Sequence[UPQAItem]
    plan: Plan
    base: dict[str, Any]
    answers: Sequence[Record] = ()


class Evaluator:
    """Base of all evaluators; a subclass says what it asks and what its figures mean.

    Args:
        name: under which it is registered.
        settings: an instance of the class that it was registered with, if any.

    Attributes:
        columns: how its figures are shown, in every table and picture.
        targeted: whether its answers are to give the user's value, so that a judge can say whether they do.
    """

    columns: tuple[Column, ...] = ()
    targeted = False

    def __init__(self, name: str, settings: Any = None) -> None:
        self.name, self.settings = name, settings

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """Questions for the personalised model; none by default."""
        return []

    def measure(self, case: Case) -> dict[str, Any]:
        """Figures that need the personalised model; none by default."""
        return {}

    def after(self, case: Case) -> dict[str, Any]:
        """Figures, or ``{"answers": [...]}``, that need the session closed; none by default."""
        return {}

    def grade(self, answer: Record, plan: Plan) -> float | None:
        """One kept answer's figure in [0, 1]; None leaves it out (it could not be asked)."""
        return None if answer.get("skipped") else float(plan.rules.hit(answer["text"], answer["target"]))

    def details(self, answers: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """Further figures beside the mean."""
        return {}

    def values(self, users: Sequence[Record], plan: Plan) -> dict[str, float]:
        """One figure per user: the mean over their answers. Users, not answers, are independent draws."""
        return per_user(users, self.answers, lambda answer: self.grade(answer, plan))

    def further(self, users: Sequence[Record], plan: Plan) -> dict[str, dict[str, float]]:
        """More figures that get intervals of their own: by name, one value per user; none by default."""
        return {}

    def answers(self, users: Sequence[Record]) -> list[Record]:
        """The kept answers that are this evaluator's."""
        return [answer for user in users for answer in user["answers"] if answer["evaluator"] == self.name]

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """The figure with its interval, and its details; empty when nobody was asked."""
        values = self.values(users, plan)
        if not values:
            return {}
        interval = mean_interval(list(values.values()), plan.seed)
        further = {
            name: mean_interval(list(one.values()), plan.seed) for name, one in self.further(users, plan).items() if one
        }
        found = {**as_metric(interval), **{name: one.mean for name, one in further.items()}}
        if further:
            found["further_ci95"] = {name: [one.low, one.high] for name, one in further.items()}
        return {**found, **self.details(self.answers(users), plan)}


class TargetEvaluator(Evaluator):
    """Base of evaluators whose question is to be answered with the target."""

    field = ""
    cut = 8  # see Ask.cut
    long = False
    targeted = True

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The item's question of this kind, unless the data set has none."""
        question = getattr(item, self.field)
        return [Ask(self.name, question, item.target, long=self.long, forced=True, cut=self.cut)] if question else []

    def details(self, answers: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """Exact match, token F1, teacher-forced accuracy (EasyEdit's), natural stop; the paper's cuts."""
        asked = [answer for answer in answers if not answer.get("skipped")]
        figures = {
            "exact": average(float(exact(a["text"], a["target"])) for a in asked),
            "f1": average(token_f1(a["text"], a["target"]) for a in asked),
            "teacher_forced": average(a["forced"] for a in asked if a.get("forced") is not None),
            "stopped": average(float(a["stopped"]) for a in asked),
        }
        for cut in plan.rules.reported:
            figures[f"plus{cut}"] = average(
                float(plan.rules.hit(a["cuts"][str(cut)], a["target"])) for a in asked if "cuts" in a
            )
        return {key: value for key, value in figures.items() if value is not None}


class LeakEvaluator(Evaluator):
    """Base of evaluators whose question must not be answered with the target; the figure is the share that is."""

    def details(self, answers: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """The share that held the target without any personalisation."""
        asked = [answer for answer in answers if not answer.get("skipped") and answer.get("before") is not None]
        before = average(float(plan.rules.hit(a["before"], a["target"])) for a in asked)
        return {} if before is None else {"before": before}


def per_user(
    users: Sequence[Record],
    answers: Callable[[Sequence[Record]], Sequence[Record]],
    grade: Callable[[Record], float | None],
) -> dict[str, float]:
    """Each user's mean grade over some of their answers; users without a grade are left out."""
    graded = {user["user"]: [grade(answer) for answer in answers([user])] for user in users}
    means = {user: average(one for one in grades if one is not None) for user, grades in graded.items()}
    return {user: mean for user, mean in means.items() if mean is not None}


def find_evaluators(plan: Plan) -> list[Evaluator]:
    """One instance of each evaluator of a plan, with its settings.

    Raises:
        RegistryError: the plugin that brings one cannot be loaded.
    """
    return [EVALUATORS.get(name)(name, section_of(EVALUATORS, name, plan.settings)) for name in plan.evaluators]


def as_metric(interval: Interval) -> dict[str, Any]:
    """An interval under the names that result files use."""
    return {"mean": interval.mean, "n": interval.n, "ci95": [interval.low, interval.high]}


def average(values: Any) -> float | None:
    """The mean, or None of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
