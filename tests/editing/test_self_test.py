"""The self-test: which questions it asks, and what it makes of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from easyedit_personal.editing import self_test
from easyedit_personal.editing.self_test import questions, run_self_tests
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.types import Preference, WeightDelta


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
        return [Said(text) for text in ["No idea.", "Chess."] + answers * 2]

    monkeypatch.setattr(self_test, "generate", generate)
    hparams = PersonalizationHyperParams()
    before, (one, two) = run_self_tests(None, None, [told("hobby", "falconry")] * 2, hparams, [], [])
    assert before == ["No idea.", "Chess."]
    assert one == two and (one.fault == fault if not fault else fault in one.fault)
    ((prompts, limits),) = asked
    assert len(prompts) == 8 and limits == [48, 48] + [48, 26, 26] * 2


def test_one_batch_asks_the_model_before_and_after(llama, tokenizer):
    torch.manual_seed(0)
    path = "model.layers.2.mlp.down_proj"
    first, second = ([WeightDelta(path, torch.randn(32, 2), torch.randn(2, 48))] for _ in range(2))
    told_of, hparams = [told("hobby", "falconry"), told("pet", "a cat")], PersonalizationHyperParams()
    before, tests = run_self_tests(llama, tokenizer, told_of, hparams, first, [*first, *second])
    asked = [one.question for one in told_of]
    for deltas, said in ((first, before), ([*first, *second], [test.replies[0].answer for test in tests])):
        with in_weights(llama, deltas):
            assert said == [answer.text for answer in self_test.generate(llama, tokenizer, asked)]
