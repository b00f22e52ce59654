"""The people of the memory benchmark: whole, and scored as its docstring says."""

from __future__ import annotations

from benchmarks.personas import keep, kept, persona_set, told_right
from benchmarks.personas_figures import summary, table
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


def someone(name, direct, cpu):
    told = {"right": True, "where": ["weights"], "why": [""], "asked": False, "say": "", "seconds": 1.0, "kind": "pet"}
    sizes = {"factor_bytes": [9, 5], "file_bytes": [90, 95], "merged": 3, "error": 0.0}
    rows = [{**told, "cpu": cpu * number} for number in (1, 2, 3)] + [
        {**told, "right": False, "where": ["words"], "cpu": 0.0}
    ]
    known = [["pet", "weights"], ["units", "words"], ["hobby", "weights"]]
    return {"name": name, "told": rows, "answers": {"direct": direct}, "known": known, "compact": sizes}


def test_shares_are_over_all_people():
    found = summary([someone("Ada", [True, False, True], 1.0), someone("Ben", [True, False, True], 1.0)])
    assert (found["people"], found["statements"]) == (2, 8)
    assert found["understood"]["share"] == found["in weights"]["share"] == 0.75
    assert (found["direct"]["share"], found["direct"]["n"]) == (0.667, 6)
    assert found["direct, in words"]["share"] == 0.0 and found["direct, in weights"]["share"] == 1.0
    assert found["compact"] == {"n": 2, "file bytes": [90, 95], "smaller": 0}


def test_the_line_through_the_times_leaves_out_what_learned_a_gate():
    found = summary([someone("Ada", [True], 10.0), someone("Ben", [True], 10.0)])["CPU seconds of the n-th"]
    assert (found["n"], found["slope"]) == (5, 10.0)  # of the six in weights, the first has learned the gate


def test_the_table_ends_with_the_worst():
    rows = table([someone("Ada", [False, False, True], 1.0), someone("Ben", [True, True, True], 1.0)])
    assert rows[1].startswith("Ben") and rows[2].startswith("Ada") and "33%" in rows[2]
    assert rows[3].endswith("pet (1), units (1)")


def test_a_file_keeps_everybody_who_was_told_in_the_same_way(tmp_path):
    file, made = tmp_path / "personas.json", {"settings": {"layers": [3]}, "statements": 4}
    assert kept(file, made) == []
    keep(file, made, someone("Ada", [True], 1.0))
    assert [one["name"] for one in keep(file, made, someone("Ben", [True], 1.0))] == ["Ada", "Ben"]
    assert [one["name"] for one in kept(file, made)] == ["Ada", "Ben"] and kept(file, {**made, "statements": 5}) == []
    assert [path.name for path in tmp_path.iterdir()] == ["personas.json"]
