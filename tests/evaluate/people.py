"""Users and settings shared by the tests of evaluation: few, short, and about different things."""

from __future__ import annotations

from easyedit_personal.data.records import UPQAItem
from easyedit_personal.hparams import PersonalizationHyperParams

SUBJECTS = {"hobby": "hiking", "pet": "a degu", "job": "baker", "drink": "mint tea"}


def person(subject: str = "hobby", target: str | None = None) -> UPQAItem:
    """One user with every kind of question."""
    value = target or SUBJECTS[subject]
    question = f"What's my {subject}?"
    return UPQAItem(
        id=f"user-{subject}",
        persona=f"Everybody knows that I love {value}",
        subject=subject,
        question=question,
        paraphrase=f"Which {subject} do I have?",
        implicit="What should I do this weekend?",
        product="What should I buy?",
        target=value,
        cluster=((f"own {subject}", f"What's my own {subject}?"), (subject, question)),
        locality=(("What is the capital of France?", "Paris"), ("What colour is snow?", "white")),
        negated=f"What's not my {subject}?",
        other=f"What's Vera's {subject}?",
        unrelated=("Why is the sky wide?", "What is a good name for a boat?"),
    )


def people() -> list[UPQAItem]:
    """Four users."""
    return [person(subject) for subject in SUBJECTS]


def quick_hparams(steps: int = 200) -> PersonalizationHyperParams:
    """Enough for a tiny random model to learn an answer and where it ends."""
    return PersonalizationHyperParams(layers=[2], finetune={"lr": 0.02, "steps": steps})
