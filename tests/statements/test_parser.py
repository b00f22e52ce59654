"""Plain words to a preference: what is understood, what is asked back, and what an answer makes of it."""

from __future__ import annotations

import re

import pytest

from easyedit_personal.clustering import PhraseService
from easyedit_personal.clustering.lexicon import Lexicon
from easyedit_personal.editing.requests import as_request, check_requests
from easyedit_personal.errors import ServiceError
from easyedit_personal.statements.language_model import understand_with
from easyedit_personal.statements.parser import understand
from easyedit_personal.statements.preferences import Unclear, read, same_matter
from easyedit_personal.statements.rules import rules
from easyedit_personal.types import Preference
from tests.clustering.test_service import completion, stub  # noqa: F401 - a fixture

UNDERSTOOD = [
    ("I prefer aisle seats", "plane seat", "aisle seats"),
    ("My hobby is falconry", "hobby", "falconry"),
    ("call me Sam", "nickname", "Sam"),
    ("Please call me Sam!", "nickname", "Sam"),
    ("my favourite colour is teal", "favourite colour", "teal"),
    ("I'm vegetarian", "dietary preference", "vegetarian"),
    ("I\N{RIGHT SINGLE QUOTATION MARK}m a vegan now", "dietary preference", "vegan"),
    ("I play the oboe", "instrument", "oboe"),
    ("I play football on Sundays", "favorite sport", "football"),
    ("I play chess", "favorite board game", "chess"),
    ("I'm a software developer", "profession", "software developer"),
    ("I'm allergic to peanuts.", "allergy", "peanuts"),
    ("By the way, my blood type is A+.", "blood type", "A+"),
    ("I prefer tea over coffee", "favorite drink", "tea"),
    ("I love horror movies", "favorite film genre", "horror movies"),
    ("I was born in Oslo", "birthplace", "Oslo"),
    ("I have two black cats", "pet", "two black cats"),
    ("Actually, my hobby is now kite flying", "hobby", "kite flying"),
    ("Falconry is my hobby", "hobby", "Falconry"),
    ("my motto is don't panic", "motto", "don't panic"),
    ('my favorite book is "The Hobbit"', "favorite book", "The Hobbit"),
    ("my favorite bridge is the Golden Gate", "favorite bridge", "the Golden Gate"),
    ("the colour I like best is mauve", "favorite color", "mauve"),
    ("My favorite dish is {braces} and 麺", "favorite dish", "{braces} and 麺"),
]
ASKED_BACK = [
    ("I love flying hawks", "What is .flying hawks. to you"),
    ("I play zorb", "What is .zorb. to you"),
    ("What's my hobby?", "a question"),
    ("my hobby is chess?", "a question"),
    ("I used to play the oboe", "how is it now"),
    ("My hobby is not chess", "What is your hobby"),
    ("my hobby is it", "What exactly is your hobby"),
    ("she likes jazz", "did not understand"),
    ("I'm a bit odd", "did not understand"),
    ("my diary is red", "my diary.*red"),
    ("my hobby is " + "very " * 60 + "long", "few words"),
    ("word " * 200, "short sentence"),
    ("  ", "What should I remember"),
]


@pytest.mark.parametrize(("text", "subject", "target"), UNDERSTOOD)
def test_plain_words_become_a_preference_that_can_be_edited_in(text, subject, target):
    [found] = read(text, "sam")
    assert isinstance(found, Preference), found
    assert (found.subject, found.target, found.user, found.text) == (subject, target, "sam", text.strip())
    assert found.subject in found.question and found.question.startswith("What")
    check_requests([as_request(found)])


@pytest.mark.parametrize(("text", "question"), ASKED_BACK)
def test_what_is_not_understood_is_asked_back(text, question):
    [found] = read(text)
    assert isinstance(found, Unclear), found
    assert re.search(question, found.question)


def test_known_kinds_come_with_their_other_names():
    [found] = read("my hobby is falconry")
    assert isinstance(found, Preference) and len(found.phrases) == 8
    assert ("pastime", "What is my pastime?") in found.phrases
    [bridge] = read("my favorite bridge is the Golden Gate")
    assert isinstance(bridge, Preference) and bridge.phrases == ()


def test_an_answer_completes_what_was_asked():
    [unclear] = read("I love flying hawks", "ada")
    assert isinstance(unclear, Unclear)
    for reply in ("hobby", "It's my hobby.", "My hobby"):
        found = unclear.answered(reply, "ada")
        assert isinstance(found, Preference), found
        assert (found.subject, found.target, found.user) == ("hobby", "flying hawks", "ada")
        assert found.text == "I love flying hawks"
    corrected = unclear.answered("my hobby is falconry", "ada")
    assert isinstance(corrected, Preference) and corrected.target == "falconry"
    assert isinstance(unclear.answered("yes"), Unclear)  # yes to what?


def test_a_suggestion_is_taken_by_yes_and_dropped_by_anything_else():
    [unclear] = read("My mixtape is Winter Blues")
    assert isinstance(unclear, Unclear) and unclear.suggestion is not None
    assert unclear.answered("yes") == unclear.suggestion
    assert unclear.suggestion.question == "What is my mixtape?" and unclear.suggestion.target == "Winter Blues"
    assert isinstance(unclear.answered("no"), Unclear)


def test_a_text_holds_several_statements():
    found = read("I'm vegetarian and I play the oboe. My motto is live and let live; call me Sam.")
    assert [(one.subject, one.target) for one in found if isinstance(one, Preference)] == [
        ("dietary preference", "vegetarian"),
        ("instrument", "oboe"),
        ("motto", "live and let live"),
        ("nickname", "Sam"),
    ]


def test_later_statements_about_the_same_matter_are_recognised():
    assert same_matter("hobby", "pastime") and same_matter("favourite colour", "favorite color")
    assert same_matter("My Bridge", "bridge")
    assert not same_matter("hobby", "pet") and not same_matter("hobby", "bridge")


def test_the_rules_name_attributes_that_are_known():
    lexicon, known = Lexicon.load(), rules()
    kinds = {kind for rule in known.statements for kind in (*rule.kinds, rule.otherwise) if kind}
    unknown = [kind for kind in kinds if not lexicon.find(kind) and kind not in known.plain_names]
    assert unknown == []


HOSTILE = ["my " + "a " * 190, "my " + "a" * 390, "i " * 199, "over " * 79, "please " * 57 + "!"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_do_not_keep_a_service_busy(text):
    assert all(one.status != "learn" for one in understand(text))  # catastrophic backtracking would take hours


class TestLanguageModel:
    def test_reads_what_rules_cannot(self, stub):  # noqa: F811
        service = stub.service(completion({"subject": "hobby", "target": "falconry"}))
        found = understand_with(service, "I love flying hawks", "ada")
        assert isinstance(found, Preference) and len(found.phrases) == 8
        assert (found.subject, found.target, found.text) == ("hobby", "falconry", "I love flying hawks")
        sent = stub.asked[0][2]["messages"]
        assert sent[1]["content"] == '{"statement": "I love flying hawks"}'

    def test_may_ask_back(self, stub):  # noqa: F811
        found = understand_with(stub.service(completion({"ask": "Is that a hobby or a job?"})), "I fly hawks")
        assert found == Unclear("I fly hawks", "Is that a hobby or a job?")

    def test_knows_dislikes_and_other_people(self, stub):  # noqa: F811
        olives = {"subject": "favorite food", "target": "olives", "polarity": "-"}
        found = understand_with(stub.service(completion(olives)), "Olives and I will never be friends", "ada")
        assert isinstance(found, Preference) and found.question == "What food do I not like?"
        chess = {"subject": "hobby", "target": "chess", "whose": "Mia"}
        found = understand_with(stub.service(completion(chess)), "Mia lives for chess", "ada")
        assert isinstance(found, Preference) and found.subject == "Mia's hobby"
        assert found.question == "What is Mia's hobby?"

    @pytest.mark.parametrize(
        "bad",
        [
            "Sure! Your hobby is falconry.",
            {"subject": "hobby"},
            {"subject": "hobby", "target": "falconry", "ask": "or not?"},
            {"subject": "hobby", "target": "x" * 500},
            {"subject": "hobby\nignore all", "target": "falconry"},
            {},
        ],
    )
    def test_unusable_answers_are_asked_for_again_and_then_an_error(self, stub, bad):  # noqa: F811
        good = completion({"subject": "hobby", "target": "falconry"})
        assert isinstance(understand_with(stub.service(completion(bad), good), "I fly hawks"), Preference)
        with pytest.raises(ServiceError, match="no usable reading of the statement in 3 attempts"):
            understand_with(stub.service(completion(bad)), "I fly hawks")

    def test_long_text_is_not_sent(self):
        assert isinstance(understand_with(PhraseService(model="none"), "word " * 200), Unclear)
