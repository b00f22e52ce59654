"""The self-test: three questions put to the edited model before an edit is kept, one of which it must not answer so.

Beside the health check, which asks whether the model is still well, this asks whether the edit has done its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..clustering.lexicon import Lexicon
from ..data.phrasings import attributes
from ..generation.generate import MAX_NEW_TOKENS, generate
from ..generation.score import contained, words
from ..hparams import PersonalizationHyperParams
from ..serving.multi_adapter import merged, mixed
from ..types import Preference, WeightDelta

Asks = Literal["named", "indirect", "something else"]
TOKENS = 24  # of an answer that is only looked at: a natural one states the value within the first ten
# About nothing that is ever edited, with what a well model says: a value that stands in it proves nothing.
SOMETHING_ELSE = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many days are there in a week?", "There are seven days in a week."),
    ("Which colour is a ripe banana?", "A ripe banana is yellow."),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A question of the self-test with the edited model's answer.

    Attributes:
        asks: by name, indirectly, or about something else.
        has_value: whether the value stands in the answer.
    """

    asks: Asks
    question: str
    answer: str
    has_value: bool


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What an edited model said about one preference."""

    replies: tuple[Reply, ...]

    @property
    def took(self) -> bool:
        """Whether the value is there where it is asked for by name."""
        return all(reply.has_value for reply in self.replies if reply.asks == "named")

    @property
    def leaks(self) -> bool:
        """Whether it is there where something else is asked."""
        return any(reply.has_value for reply in self.replies if reply.asks == "something else")

    @property
    def fault(self) -> str:
        """What is wrong, in words; empty where nothing is."""
        if not self.took:
            return "the edited model does not say it where it is asked for by name"
        return "the edited model says it where something else is asked" if self.leaks else ""


def run_self_tests(
    model: nn.Module,
    tokenizer: Any,
    preferences: Sequence[Preference],
    hparams: PersonalizationHyperParams,
    old: Sequence[WeightDelta],
    new: Sequence[WeightDelta],
) -> tuple[list[str], list[SelfTest]]:
    """Ask a model with its edits three questions about each preference, and one without the last edit, in one batch.

    Args:
        model: without any edits.
        tokenizer: its tokenizer.
        preferences: what it is to know.
        hparams: ``prompt_format`` is taken from here.
        old, new: the factors before the last edit, and with it.

    Returns:
        What was answered to the preferences' own questions before, and their self-tests.
    """
    asked = [(preference, *question) for preference in preferences for question in questions(preference)]
    before, factors = [preference.question for preference in preferences], (merged(old), merged(new))
    owners = [0] * len(before) + [1] * len(asked)
    with mixed(model, [factors[owner] for owner in owners]) as adapters:
        answers = generate(
            model,
            tokenizer,
            [*before, *(question for *_, question in asked)],
            prompt_format=hparams.prompt_format,
            max_new_tokens=[MAX_NEW_TOKENS] * len(before) + [_tokens(one, asks) for one, asks, _ in asked],
            owners=owners,
            set_rows=adapters.set_rows,
        )
    replies = [
        Reply(asks, question, answer.text, contained(answer.text, preference.target))
        for (preference, asks, question), answer in zip(asked, answers[len(before) :])
    ]
    each = len(replies) // max(1, len(preferences))
    tests = [SelfTest(tuple(replies[n * each : (n + 1) * each])) for n in range(len(preferences))]
    return [answer.text for answer in answers[: len(before)]], tests


def questions(preference: Preference) -> list[tuple[Asks, str]]:
    """The three questions: the preference's own, one that does not name its kind, one about something else."""
    other = next((q for q, a in SOMETHING_ELSE if not _shares_words(preference.target, a)), SOMETHING_ELSE[0][0])
    return [("named", preference.question), ("indirect", _indirect(preference)), ("something else", other)]


def _indirect(preference: Preference) -> str:
    """A shipped question that asks for the kind without its name; where none is known, by another name at least."""
    entry = Lexicon.load().find(preference.subject)
    shipped = (question for a in attributes() if entry and a.group == entry.group for question in a.train["implicit"])
    further = (question for _, question in preference.phrases if question != preference.question)
    return next(shipped, None) or next(further, None) or f"Do you remember my {preference.subject}?"


def _shares_words(target: str, answer: str) -> bool:
    return bool(set(words(target)) & set(words(answer)))


def _tokens(preference: Preference, asks: Asks) -> int:
    """Room for the answer; that to the preference's own question is shown to people, too."""
    return MAX_NEW_TOKENS if asks == "named" else TOKENS + 2 * len(words(preference.target))
