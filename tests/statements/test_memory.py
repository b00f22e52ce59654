"""Which entries of a user's memory hold, and which of them are kept in words."""

from __future__ import annotations

import pytest

from easyedit_personal.statements.memory import (
    current,
    heard,
    is_added,
    overrules,
    sentence,
    together,
    why_in_words,
)
from easyedit_personal.statements.preferences import Unclear
from easyedit_personal.types import Preference


def told(subject, target, text=""):
    return Preference(subject, f"What is my {subject}?", target, "ann", text)


@pytest.mark.parametrize(
    ("later", "earlier", "holds"),
    [
        (("job", "baker"), ("profession", "nurse"), False),
        (("hobby", "chess"), ("hobby", "golf"), False),
        (("disliked food", "olives"), ("disliked food", "figs"), True),
        (("answer style", "friendly"), ("answer style", "short"), True),
        (("units", "metric"), ("units", "imperial"), False),
        (("daughter Mia's allergy", "eggs"), ("daughter Mia's allergy", "nuts"), True),
        (("daughter Mia's age", "6"), ("daughter Mia's age", "5"), False),
        (("favorite food", "olives"), ("disliked food", "Olives"), False),
        (("favorite food", "olives"), ("disliked food", "figs"), True),
        (("not my pet", "dog"), ("pet", "a cat"), True),
        (("not my pet", "a cat"), ("pet", "a cat"), False),
        (("hobby", "chess"), ("pet", "a cat"), True),
    ],
)
def test_what_a_later_statement_leaves_of_an_earlier_one(later, earlier, holds):
    assert overrules(told(*later), told(*earlier)) is not holds
    assert current([told(*earlier), told(*later)]) == [told(*earlier)] * holds + [told(*later)]


def test_several_values_told_in_one_breath_are_one_entry_or_asked_back():
    assert [(one.subject, one.target) for one in heard("I love hiking and painting")] == [
        ("hobby", "hiking and painting")
    ]
    assert len(heard("I hate olives and coriander")) == 2
    [unclear] = heard("I live in Berlin. I live in Porto")
    assert isinstance(unclear, Unclear) and '"Berlin" or "Porto"' in unclear.question


def test_values_are_put_together_without_repeating_themselves():
    nuts, both = told("allergy", "nuts", "nuts are bad"), told("allergy", "nuts and eggs")
    assert is_added("allergy") and not is_added("hobby")
    assert together(nuts, told("allergy", "eggs", "eggs too")) == told(
        "allergy", "nuts and eggs", "nuts are bad eggs too"
    )
    assert together(nuts, both) is both and together(both, told("allergy", "eggs")) is both
    long = told("allergy", "x" * 119)
    assert together(nuts, long) is long


def test_an_entry_reads_in_its_authors_words_on_one_line():
    assert sentence(told("pet", "a cat", "I have\n a cat")) == "I have a cat."
    assert sentence(told("pet", "a cat")) == "My pet: a cat."
    assert sentence(told("disliked food", "olives")) == "I do not like olives."


def test_every_kind_in_words_has_a_reason():
    for subject in ("units", "nickname", "disliked drink", "not my pet", "not wife's pet", "wife's pet"):
        assert why_in_words(subject), subject
    for subject in ("hobby", "allergy", "name", "wife", "children's names"):
        assert why_in_words(subject) is None, subject
