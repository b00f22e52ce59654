"""An edit that is tried out before it is kept: the user's model's answers without and with it, and its self-test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..editing.self_test import SelfTest, run_self_tests
from ..generation.generate import generate
from ..hparams import PersonalizationHyperParams
from ..kernels.beside import edited
from ..types import EditResult, Preference, WeightDelta
from .learned import Learned

PASSED, UNTESTED, KEPT_ANYWAY = "its self-test was passed", "learned as an edit", "kept though its self-test failed"


@dataclass(frozen=True, slots=True)
class Trial:
    """Preferences edited in, and not kept yet.

    Attributes:
        result: the edit.
        before, after: per preference the answer to its question.
        tests: per preference its self-test; empty where none was asked for.
    """

    result: EditResult
    before: Sequence[str]
    after: Sequence[str]
    tests: Sequence[SelfTest] = ()

    def faults(self) -> dict[int, str]:
        """What is wrong, by the preference's place."""
        return {place: test.fault for place, test in enumerate(self.tests) if test.fault}

    @property
    def why(self) -> str:
        """Why it is an edit, if it is kept."""
        if not self.tests:
            return UNTESTED
        return KEPT_ANYWAY if self.faults() else PASSED

    def records(self, preferences: Sequence[Preference]) -> list[Learned]:
        """What is to be said of it; the edit has no number yet."""
        tests: Sequence[SelfTest | None] = self.tests or [None] * len(preferences)
        return [
            Learned(
                edit=0,
                preference=preference,
                before=before,
                after=after,
                seconds=self.result.seconds,
                nbytes=self.result.nbytes,
                health=self.result.health,
                why=self.why,
                test=test,
            )
            for preference, before, after, test in zip(preferences, self.before, self.after, tests)
        ]


def tried(
    model: nn.Module,
    tokenizer: Any,
    preferences: Sequence[Preference],
    result: EditResult,
    old: Sequence[WeightDelta],
    hparams: PersonalizationHyperParams,
    *,
    test: bool,
) -> Trial:
    """Ask about preferences before and after their edit; the model is as it was afterwards.

    Args:
        model, tokenizer: the base model and its tokenizer.
        preferences: what the edit is to carry.
        result: the edit.
        old: the factors that the user has without it.
        hparams: how it was made.
        test: run the self-tests, too.
    """
    have = [*old, *result.deltas]
    if test:
        before, tests = run_self_tests(model, tokenizer, preferences, hparams, old, have)
        return Trial(result, before, [one.replies[0].answer for one in tests], tests)
    questions = [preference.question for preference in preferences]

    def answers(deltas: Sequence[WeightDelta]) -> list[str]:
        with edited(model, deltas):
            found = generate(model, tokenizer, questions, prompt_format=hparams.prompt_format)
        return [answer.text for answer in found]

    return Trial(result, answers(old), answers(have))
