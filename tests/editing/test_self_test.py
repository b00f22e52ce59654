"""The self-test: which questions it asks, and what it makes of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from easyedit_personal.editing import self_test
from easyedit_personal.editing.self_test import questions, run_self_tests
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.types import Preference


def told(subject, target, *phrases):
    return Preference(subject, f"What is my {subject}?", target, phrases=phrases)


def test_it_asks_by_name_without_the_name_and_about_something_else():
    (named, own), (indirect, hidden), (other, else_) = questions(told("hobby", "falconry"))
    assert (named, own) == ("named", "What is my hobby?") and (indirect, other) == ("indirect", "something else")
    assert "hobby" not in hidden and else_ == "What is the capital of France?"
    assert dict(questions(told("location", "Paris")))["something else"] == "How many days are there in a week?"
    unknown = told("bridge", "the old one", ("span", "What is my span?"))
    assert dict(questions(unknown))["indirect"] == "What is my span?"
    assert dict(questions(told("bridge", "the old one")))["indirect"] == "Do you remember my bridge?"


@dataclass
class Said:
    text: str


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        (["It is falconry.", "No idea.", "Paris."], ""),
        (["It is chess.", "Falconry!", "Paris."], "does not say it where it is asked for by name"),
        (["Falconry.", "Falconry.", "Your hobby is falconry."], "says it where something else is asked"),
    ],
)
def test_an_edit_has_to_be_heard_and_to_keep_quiet(answers, fault, monkeypatch):
    asked = []

    def generate(model, tokenizer, prompts, *, max_new_tokens, **_):
        asked.append((prompts, max_new_tokens))
        return [Said(text) for text in answers * 2]

    monkeypatch.setattr(self_test, "generate", generate)
    hparams = PersonalizationHyperParams()
    one, two = run_self_tests(None, None, [told("hobby", "falconry")] * 2, hparams)
    assert one == two and (one.fault == fault if not fault else fault in one.fault)
    ((prompts, limits),) = asked
    assert len(prompts) == 6 and limits == [48, 26, 26] * 2
