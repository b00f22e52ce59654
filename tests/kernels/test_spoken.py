"""Answers as tokens with roles: whose characters a token holds, what ends an answer, what the model goes on with."""

from __future__ import annotations

import pytest

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import spoken as module
from easyedit_personal.kernels.kinds import Kind, Phrase
from easyedit_personal.kernels.spoken import speak

HOBBY = Kind("hobby", "hobby", ("hobby",))
HPARAMS = PersonalizationHyperParams()
PIECES = (" Your", " pet", " is", " a", " cat", ".", "<end>")  # "Your pet is a cat.<end>"


class Words:
    """A tokenizer of whole words that also tidies spaces up, unless it is told not to."""

    def decode(self, ids, clean_up_tokenization_spaces=True):
        text = "".join(PIECES[i] for i in ids)
        return text.replace(" is a", " isa") if clean_up_tokenization_spaces else text


@pytest.mark.parametrize(
    ("start", "stop", "roles"),
    [
        (11, 17, "say say say value value say say"),  # " a cat"
        (12, 17, "say say say value value say say"),  # "a cat", behind the space
        (13, 17, "say say say say value say say"),
        (11, 16, "say say say value value say say"),  # "a ca": a part of a token makes it the value's
        (11, 13, "say say say value say say say"),
        (0, 1, "value say say say say say say"),
        (17, 18, "say say say say say value say"),
    ],
)
def test_a_token_is_the_values_if_some_of_its_characters_are(start, stop, roles):
    assert module._roles(Words(), range(7), start, stop) == tuple(roles.split())


@pytest.mark.parametrize(("asks", "ends"), [("name", True), ("implicit", False), ("product", False)])
def test_only_a_statement_ends_the_answer(tokenizer, asks, ends):
    spoken = speak(tokenizer, Phrase("What now?", asks), HOBBY, "tea", HPARAMS)
    assert (spoken.row.target_ids[-1] == tokenizer.eos_token_id) == ends
    assert spoken.value_at == spoken.roles.index("value") > 0
    value = [token for token, role in zip(spoken.row.target_ids, spoken.roles) if role == "value"]
    assert tokenizer.decode(value).strip() == "tea"


def test_turns_before_stand_before(tokenizer):
    phrase = Phrase("And my hobby?", "name", (("Hello?", "Hi."), ("Well?", "Yes.")))
    text = tokenizer.decode(speak(tokenizer, phrase, HOBBY, "tea", HPARAMS).row.ids)
    turns = ("<|user|>Hello?", "<|assistant|>Hi.", "<|user|>Well?", "<|assistant|>Yes.", "<|user|>And my hobby?")
    assert text == "<|end|>".join(turns) + "<|end|><|assistant|>Your hobby is tea.<|end|>"


def test_beginnings_go_on_from_their_last_token_and_statements_are_whole(tokenizer, monkeypatch):
    asked = []

    def continuations(model, tokenizer, rows, limits):
        asked.extend(zip(rows, limits, strict=True))
        return [[50 + n] * (1 + n) for n in range(len(rows))]

    monkeypatch.setattr(module, "continuations", continuations)
    sorts = ("implicit", "name", "product")
    spoken = [speak(tokenizer, Phrase("What now?", asks), HOBBY, "tea", HPARAMS) for asks in sorts]
    first, whole, last = module.go_on(None, tokenizer, spoken, 6)
    assert whole is spoken[1]
    assert first.row.target_ids == (*spoken[0].row.target_ids, 50) and first.roles == (*spoken[0].roles, "keep")
    assert last.row.target_ids == (*spoken[2].row.target_ids, 51, 51)
    assert last.roles == (*spoken[2].roles, "keep", "keep") and last.phrase == spoken[2].phrase
    for (row, limit), begun in zip(asked, (spoken[0], spoken[2]), strict=True):
        assert row.prompt_ids == begun.row.ids and row.target_ids == () and limit == 6
        assert row.key_index == len(row.prompt_ids) - 1
