"""The people of the memory benchmark: whole, and scored as its docstring says."""

from __future__ import annotations

from benchmarks.personas import persona_set, summary, told_right
from easyedit_personal.statements.memory import heard
from easyedit_personal.types import Preference


def test_twenty_people_say_twenty_different_things_each():
    asked = persona_set()
    assert len(asked["people"]) == len({person["name"] for person in asked["people"]}) == 20
    for person in asked["people"]:
        kinds = [kind for kind, _, _ in person["told"]]
        assert len(kinds) == len(set(kinds)) == 20, person["name"]
    said = [say for person in asked["people"] for *_, say in person["told"]]
    assert all(isinstance(say, str) and len(say) < 80 for say in said)
    kinds = {kind for person in asked["people"] for kind, _, _ in person["told"]}
    assert all(set(row["kinds"]) & kinds for row in asked["mixtures"])


def test_a_sentence_counts_as_understood_by_kind_and_value():
    alike = [["goal", "plan"]]
    found = [Preference("plan", "What is my plan?", "build a boat")]
    assert told_right(found, "goal", "to build a boat", alike)
    assert not told_right(found, "hobby", "build a boat", alike) and not told_right(found, "goal", "a bakery", alike)
    assert not told_right([], "goal", "to build a boat", alike)


def test_most_of_what_they_say_is_understood():
    asked = persona_set()
    rows = [row for person in asked["people"] for row in person["told"]]
    right = [
        told_right([o for o in heard(say) if isinstance(o, Preference)], k, v, asked["alike"]) for k, v, say in rows
    ]
    assert sum(right) >= 0.8 * len(rows)


def test_shares_are_over_all_people():
    told = {"right": True, "where": ["weights"], "why": [""], "asked": False, "say": "", "seconds": 1.0}
    person = {"told": [told, {**told, "right": False, "where": ["words"]}], "answers": {"direct": [True, False, True]}}
    found = summary([person, person])
    assert (found["people"], found["statements"]) == (2, 4)
    assert found["understood"]["share"] == found["in weights"]["share"] == 0.5
    assert (found["direct"]["share"], found["direct"]["n"]) == (0.667, 6)
