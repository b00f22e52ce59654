"""Moods, aches and delays are left alone; facts in the same mould are not."""

from __future__ import annotations

import pytest

from benchmarks.statements import cases, figures, judged
from easyedit_personal.statements.parser import understand
from easyedit_personal.statements.passing import passes


@pytest.mark.parametrize(
    "text",
    [
        "My day is awful",
        "My week was long",
        "my Sunday's a complete disaster",
        "My head hurts",
        "my back is killing me",
        "My wife's knee is playing up",
        "My train is late",
        "my flight is two hours delayed",
        "My boss is in a foul mood",
        "my motivation is at rock bottom",
        "My laptop died",
        "my coffee is cold",
        "My eyes are tired",
        "my inbox is OVERFLOWING",
    ],
)
def test_what_passes_is_left_alone(text):
    assert {one.status for one in understand(text)} == {"nothing"}


@pytest.mark.parametrize(
    "clause",
    [
        "my weekend is Thursday and Friday",
        "my day off is Friday",
        "my knee is bad",
        "my eyesight is bad",
        "my eyes are green",
        "my hobby is racing",
        "my goal is good health",
        "my favourite film is Frozen",
        "my cat is Misty",
        "my guilty pleasure is cold pizza",
        "my focus is machine learning",
        "my bike is a Brompton",
        "my attic is packed with tram tickets",
        "my fingers itch when I see an ocarina",
    ],
)
def test_what_may_last_does_not_pass(clause):
    assert not passes(clause)


def test_a_mood_beside_a_fact_is_not_asked_about():
    found = understand("My week was long but I live in Leeds")
    assert [(one.status, one.value) for one in found] == [("nothing", None), ("learn", "Leeds")]


def test_a_weekday_is_no_birthday():
    assert [one.status for one in understand("my birthday is on a Monday this year")] == ["ask"]


def test_the_fifth_set_is_understood():
    found = figures(judged("fresh_5"))
    assert len(cases("fresh_5")) == 40 and found["wrong in silence"]["count"] == 0
    assert found["nothing to learn left alone"]["count"] == found["categories"]["passing"]["n"] == 20
