"""A question asked under another name must be grammatical and must hold the name literally."""

from __future__ import annotations

import pytest

from easyedit_personal.clustering.lexicon import Lexicon
from easyedit_personal.clustering.questions import ask, is_plural, reword


@pytest.mark.parametrize(
    ("question", "subject", "name", "expected"),
    [
        ("What's my hobby?", "hobby", "pastime", "What's my pastime?"),
        ("What's my favorite hobby?", "hobby", "favorite activity", "What's my favorite activity?"),
        ("What's my favourite hobby?", "hobby", "preferred pursuit", "What's my preferred pursuit?"),
        ("Do I have a pet?", "pet", "animal companion", "Do I have an animal companion?"),
        ("Is there an interest of mine?", "interest", "usual hobby", "Is there a usual hobby of mine?"),
        ("Who is my family?", "family", "relatives", "Who are my relatives?"),
        ("What are my relatives like?", "relatives", "household", "What is my household like?"),
        ("Hobby: what is mine?", "hobby", "pastime", "Pastime: what is mine?"),
        ("WHAT IS MY HOBBY?", "hobby", "pastime", "WHAT IS MY pastime?"),
        ("My job or my jobs?", "job", "work", "My work or my jobs?"),
        (r"What's my {0} \1 hobby?", "hobby", r"{x} \g<1> hat", r"What's my {0} \1 {x} \g<1> hat?"),
    ],
)
def test_the_name_takes_the_subjects_place(question, subject, name, expected):
    phrase = reword(question, subject, name)
    assert phrase.question == expected
    assert phrase.subject in phrase.question


@pytest.mark.parametrize("subject", ["hobby", "", "  ", "free", "{}"])
def test_a_template_is_asked_where_the_question_does_not_name_its_subject(subject):
    phrase = reword("What do I enjoy in spare-time?", subject, "set of {braces}")
    assert phrase == ask("set of {braces}") and "set of {braces}" in phrase.question


def test_templates_take_turns():
    assert len({ask("hobby", number).question for number in range(5)}) == 5


@pytest.mark.parametrize("name", ["words to live by", "four wheels", "things I collect", "loved ones", "whereabouts"])
def test_plural_heads(name):
    assert is_plural(name) and ask(name).question == f"What are my {name}?"


@pytest.mark.parametrize(
    "name", ["set of wheels", "taste in films", "favorite series", "address", "means of transport"]
)
def test_singular_heads(name):
    assert not is_plural(name) and ask(name).question == f"What is my {name}?"


def test_every_name_of_the_lexicon_stands_in_its_question():
    for entry in Lexicon.load().entries:
        for name in entry.synonyms:
            phrase = reword(f"What's my {entry.name}?", entry.name, name)
            assert phrase.subject in phrase.question and f"my {name}?" in phrase.question
