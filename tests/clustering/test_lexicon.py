"""The lexicon: what ships, what is found under which spelling, and what a malformed file is told."""

from __future__ import annotations

import pytest

from easyedit_personal.clustering.lexicon import Lexicon, normalise
from easyedit_personal.errors import DataError


def test_the_shipped_lexicon_is_broad_enough_for_a_cluster_of_nine():
    lexicon = Lexicon.load()
    assert len(lexicon.entries) >= 40
    assert all(len(set(entry.names)) >= 9 for entry in lexicon.entries)
    assert Lexicon.load() is lexicon  # read once


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("hobby", "hobby"),
        ("My Hobbies?", "hobby"),
        ("pastime", "hobby"),
        ("favourite colour", "favorite color"),
        ("  the   user's\tpet ", "pet"),
        ("preferred job", "job"),
    ],
)
def test_names_are_found_in_everyday_spellings(name, entry):
    assert Lexicon.load().find(name).name == entry


@pytest.mark.parametrize("name", ["", "{}", "quantum chromodynamics", "s"])
def test_unknown_names_are_not_found(name):
    assert Lexicon.load().find(name) is None


def test_a_plain_name_wins_over_another_entrys_synonym(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("attributes:\n- {name: job, synonyms: [calling]}\n- {name: calling, synonyms: [vocation]}\n")
    lexicon = Lexicon.load(path)
    assert lexicon.find("calling").name == "calling"
    assert lexicon.groups() == {"job": ["job", "calling"], "calling": ["calling", "vocation"]}


def test_names_of_the_same_group_follow_the_entrys_own():
    lexicon = Lexicon.load()
    names = lexicon.names_for(lexicon.find("job"))
    assert names[0] == "job" and names.index("profession") > names.index("employment")
    assert len(names) == len(set(names))


def test_part_of_a_lexicon_keeps_whole_groups():
    part = Lexicon.load().restricted_to(["work", "pet"])
    assert set(part.groups()) == {"work", "pet"} and part.find("profession").name == "profession"
    assert part.find("hobby") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("attributes: []", "no entries"),
        ("- 1", "no entries"),
        ("attributes: [{group: x}, {name: a, synonyms: b}]", "entry 1: synonyms of 'a'"),
        ("attributes: [{name: a, group: 3}]", "group of 'a'"),
        ("attributes: [{name: ' '}]", "entry 0: needs a mapping with a non-empty name"),
        ("{", "cannot be read"),
    ],
)
def test_a_malformed_file_is_refused_with_its_entries(tmp_path, text, fault):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=fault):
        Lexicon.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.yaml"):
        Lexicon.load(tmp_path / "nowhere.yaml")


def test_normalise_keeps_what_tells_names_apart():
    assert normalise("My favourite Food.") == "favorite food" != normalise("food")
