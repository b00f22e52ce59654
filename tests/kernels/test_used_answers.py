"""Conversations in which a value has been used: what stands in them, what is asked again, and what else is said."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from easyedit_personal.data.beginnings import contrasts
from easyedit_personal.data.conversations import short_exchanges
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import used_answers as module
from easyedit_personal.kernels.kinds import Contrast, Kind, Phrase
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.kernels.used_answers import POOL, UsedAnswer, asked_again, moving_on, used_answers

HPARAMS = PersonalizationHyperParams()
HOBBY = Kind("hobby", "hobby", ("hobby", "pastime"))
PHRASES = [
    Phrase("What's my hobby?", "name"),
    Phrase("What shall we do?", "implicit"),
    Phrase("What's my pastime?", "name", (("Is it 3?", "Yes."),)),
]
VALUES = ["chess", "sailing"]
USED = [UsedAnswer("chess", (("What's my hobby?", "Your hobby is chess."),))]


@pytest.fixture
def used(tokenizer, monkeypatch):
    """Answers by a model that goes on with three words of its own."""
    ids = tokenizer(" and so on", add_special_tokens=False)["input_ids"]
    written = lambda model, tokenizer, prompts, tokens: [ids if tokens == [24] * len(prompts) else []] * len(prompts)
    monkeypatch.setattr("easyedit_personal.kernels.spoken.continuations", written)
    monkeypatch.setattr(module, "CONVERSATIONS", 16)
    return used_answers(None, tokenizer, HOBBY, PHRASES, VALUES, Random(0), HPARAMS)


def test_every_second_answer_is_by_name_and_the_others_go_on_as_the_model_does(used):
    own = [next(turn for turn in one.history if turn[0] in (PHRASES[0].text, PHRASES[1].text)) for one in used]
    assert len(used) == 16 and {one.value for one in used} == set(VALUES)
    for number, (one, (asked, said)) in enumerate(zip(used, own)):
        if number % 2 == 0:
            assert (asked, said) == (PHRASES[0].text, f"Your hobby is {one.value}.")
        else:
            assert asked == PHRASES[1].text and said == f"Since your hobby is {one.value}, and so on"


def test_another_exchange_stands_before_or_behind_every_third_of_them(used):
    assert [len(one.history) for one in used] == [2, 1, 1] * 5 + [2]
    between = [one.history.index(turn) for one in used for turn in one.history if turn in short_exchanges()]
    assert Counter(between) == {0: 3, 1: 3}


def test_what_is_asked_again_is_answered_with_the_value_of_the_conversation(used, tokenizer):
    again = asked_again(tokenizer, HOBBY, PHRASES, used, Random(0), HPARAMS)
    assert len(again) == 2 * len(used) and all(s.phrase.used for s in again)
    for one, pair in zip(used, zip(again[::2], again[1::2])):
        assert {s.phrase.text for s in pair} == {PHRASES[0].text, PHRASES[1].text}
        for s in pair:
            said = tokenizer.decode(list(s.row.target_ids))
            assert s.phrase.history == one.history and one.value in said and f"hobby is {one.value}" in said


def test_behind_them_come_small_talk_remarks_near_questions_and_others_but_none_that_asks_for_the_kind(monkeypatch):
    material = Material.load()
    near = [Contrast(f"What isn't my {n} hobby?", "own") for n in range(3)]
    near.append(Contrast("And now?", "own", history=(("Mine is tea.", "Good."),)))
    close = next(iter(material.related({"hobby"}) - {"hobby"}))
    shared = [Contrast(f"Other {n}?", "rest") for n in range(6)]
    shared += [Contrast("What's my hobby?", "named", "hobby"), Contrast("What's my sport?", "named", close)]
    (found,) = moving_on(USED, near, shared, HOBBY, material, Random(0))
    assert {contrast.pool for contrast in found} == {POOL} and {c.history for c in found} == {USED[0].history}
    texts = [contrast.text for contrast in found]
    sorts = (contrasts().small_talk, contrasts().remarks, [c.text for c in near[:3]], [c.text for c in shared[:6]])
    assert [len(set(texts) & set(sort)) for sort in sorts] == [2, 4, 2, 5] and len(texts) == 13
    unknown = moving_on(USED, near, shared[6:], Kind("knot", None, ("knot",)), material, Random(0))
    assert {"What's my hobby?", "What's my sport?"} <= {contrast.text for contrast in unknown[0]}


def test_where_there_is_less_all_of_it_is_said():
    (found,) = moving_on(USED, [], [], HOBBY, Material.load(), Random(0))
    assert len(found) == 6
