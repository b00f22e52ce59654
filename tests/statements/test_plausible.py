"""What rules catch though it is no value: nothing of it may be learned in silence."""

from __future__ import annotations

import pytest

from easyedit_personal.statements.parser import understand
from easyedit_personal.statements.plausible import doubt_about, says_how


def learned(text):
    return [(one.whose, one.subject, one.value) for one in understand(text) if one.status == "learn"]


@pytest.mark.parametrize(
    "text",
    [
        "my job is boring",
        "my boss is mean",
        "my kids are both at university",
        "my favourite restaurant is closing down",
        "my salary is too low",
        "my budget is gone",
        "I work for the council until last year",
        "my shoe size is 41 makes me happy",
        "can't eat dairy makes me sick",
        "I get to work by bus like my dad",
        "I bought my wife a Volvo",
        "I don't only like jazz",
        "I don't drink much",
        "I don't eat meat except on Sundays",
        "I don't live with my parents",
        "I never drink anything but tea",
        "I work as little as possible",
        "I live in fear",
        "I'm in Lisbon for work",
        "I live in London in my head",
        "I'm 20 minutes late",
        "people call me lazy",
        "I'd kill for a pizza right now",
        "It isn't true that I'm a florist and my husband is a builder",
        "Nobody knows that I'm a baker but my wife eats fish",
        "Years ago my favourite author was Zadie Smith",
        "Soon I'm a florist and my husband is a builder",
        "I apparently live in Rome",
    ],
)
def test_nothing_is_learned_of(text):
    assert learned(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My best friend Jonas moved to Vienna", [("Jonas", "location", "Vienna")]),
        ("grew up in hull moved to london", [("user", "childhood home", "hull"), ("user", "location", "london")]),
        ("my kids are Tom and Ann", [("user", "kids", "Tom and Ann")]),
        ("my favourite film is As Good as It Gets", []),  # asked, as any title that reads like a sentence
        ("my favourite band is The Who", [("user", "favourite band", "The Who")]),
        ("my coffee order is strong", [("user", "coffee order", "strong")]),
        ("I'm getting married next spring", [("user", "plan", "getting married next spring")]),
        ("I left the army and now I'm a postman", [("user", "profession", "postman")]),
        ("I neither smoke nor drink", [("user", "abandoned habit", "smoke"), ("user", "disliked drink", "alcohol")]),
        ("I live in Leeds, hope that helps", [("user", "location", "Leeds")]),
        ("Beer isn't my thing", [("user", "disliked drink", "Beer")]),
        ("I'm a baker by day and a drummer by night", [("user", "profession", "baker")]),
    ],
)
def test_what_is_meant_is_still_learned(text, expected):
    assert learned(text) == expected


def test_the_second_verb_is_no_thing():
    assert [value for _, _, value in learned("I play the flute and sing in a choir when it rains")] in ([], ["flute"])
    assert doubt_about("instrument", "flute and sing") is not None and doubt_about("hobby", "cook and bake") is None


def test_what_something_is_like_depends_on_the_kind():
    assert says_how("job", "boring") and says_how("job", "extremely boring") and says_how("wife", "pregnant")
    assert not says_how("answer style", "very short") and not says_how("favorite song", "Always on My Mind")
    assert not says_how("wife", "Ann") and not says_how("hair color", "short")
