"""expand: each source gives a cluster its phrases, the original first, never more than asked for."""

from __future__ import annotations

import json
import logging

import pytest

from easyedit_personal.clustering import Lexicon, Phrase, PreferenceClusterer
from easyedit_personal.clustering.expand import expand
from easyedit_personal.editing.requests import as_request
from easyedit_personal.errors import ConfigError, DataError, RegistryError
from easyedit_personal.registry import PHRASE_SOURCES
from easyedit_personal.types import Preference
from tests.clustering.test_cluster import Meaning

HOBBY = Preference("hobby", "What's my hobby?", "falconry", phrases=(("pastime", "Which pastime is mine?"),))


def subjects(phrases):
    return [phrase.subject for phrase in phrases]


def test_the_data_sets_own_phrases_come_as_they_are():
    assert expand(HOBBY) == [("hobby", "What's my hobby?"), ("pastime", "Which pastime is mine?")]
    assert expand(HOBBY, size=1) == [("hobby", "What's my hobby?")]


def test_records_about_the_same_subject_lend_theirs():
    pool = [
        Preference("My Hobby", "What's my hobby?", "chess", phrases=(("interest", "What's my main interest?"),)),
        Preference("pet", "What's my pet?", "a cat", phrases=(("furry friend", "Who's my furry friend?"),)),
    ]
    assert expand(HOBBY, pool=pool)[2:] == [("interest", "What's my main interest?")]


def test_one_name_may_have_several_questions_in_a_data_set():
    record = Preference("hobby", "What's my hobby?", "x", phrases=(("hobby", "Which hobby do I have?"),))
    assert len(expand(record)) == 2


def test_the_lexicon_gives_nine_names():
    phrases = expand(HOBBY, "lexicon", 9)
    assert phrases[:2] == [("hobby", "What's my hobby?"), ("pastime", "Which pastime is mine?")]
    assert len(phrases) == 9 == len({phrase.question for phrase in phrases})
    assert ("leisure activity", "What's my leisure activity?") in phrases
    assert all(phrase.subject in phrase.question for phrase in phrases)


def test_the_lexicon_speaks_of_the_users_own_name_first():
    phrases = expand(("avocation", "What's my avocation?"), "lexicon", 4)
    assert subjects(phrases) == ["avocation", "hobby", "pastime", "leisure activity"]


def test_an_own_lexicon_may_be_used(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("attributes: [{name: espada, synonyms: [tizona, {}]}]".replace("{}", "'{x}'"))
    phrases = expand("tizona", "lexicon", lexicon=Lexicon.load(path))
    assert phrases[1:] == [("espada", "What is my espada?"), ("{x}", "What is my {x}?")]


def test_a_name_that_the_lexicon_lacks_is_said_and_left_alone(caplog):
    with caplog.at_level(logging.WARNING, "easyedit_personal"):
        assert expand("quantum state", "lexicon") == [("quantum state", "What is my quantum state?")]
    assert "quantum state" in caplog.text


OTHERS = [
    Preference("pastime", "What's our pastime?", "Falconry "),
    Preference("interest", "What's my interest?", "chess"),
    Preference("pet", "What's my pet?", "falconry", phrases=(("furry friend", "Who is my furry friend?"),)),
    Preference("leisure activity", "Leisure activity?", "falconry", phrases=(("pursuit", "What's my pursuit?"),)),
]


def test_neighbours_are_of_the_same_group_and_the_same_value():
    hobby = Preference("hobby", "What's my hobby?", "falconry")
    phrases = expand(hobby, "neighbours", others=OTHERS, embedder=Meaning())
    assert subjects(phrases) == ["hobby", "pastime", "leisure activity", "pursuit"]
    assert phrases[1].question == "What's my pastime?"  # not "our"


def test_neighbours_of_a_bare_name_have_any_value():
    phrases = expand("hobby", "neighbours", others=OTHERS, clusterer=PreferenceClusterer(Meaning()))
    assert subjects(phrases) == ["hobby", "pastime", "interest", "leisure activity", "pursuit"]
    assert "interest" not in subjects(expand("hobby", "neighbours", target="falconry", others=OTHERS))


def test_without_neighbours_the_preference_stands_alone():
    assert expand("hobby", "neighbours") == [("hobby", "What is my hobby?")]


def test_the_callers_clusterer_is_not_refitted():
    clusterer = PreferenceClusterer(Meaning()).fit(["pet", "job"])
    expand("hobby", "neighbours", others=OTHERS, clusterer=clusterer)
    assert clusterer.clusters_ == [["pet"], ["job"]]


def test_a_cluster_may_be_names_and_pairs():
    phrases = expand(["hobby", ("pastime", "Which pastime is mine?"), "interest"], size=5)
    assert phrases[0] == ("hobby", "What is my hobby?") and phrases[2] == ("interest", "What is my interest?")
    assert all(isinstance(phrase, Phrase) for phrase in phrases)


def test_phrases_fit_into_a_preference():
    pairs = expand(HOBBY, "lexicon", 5)
    preference = Preference("hobby", "What's my hobby?", "falconry", phrases=tuple(pairs[1:]))
    request = as_request(preference)
    assert [phrase["prompt"] for phrase in request["cluster"]] == [phrase.question for phrase in pairs[1:]]
    assert (request["prompt"], request["target_new"]) == (pairs[0].question, "falconry")


@pytest.mark.parametrize("source", PHRASE_SOURCES.names())
def test_a_preference_without_a_subject_keeps_its_question(source):
    record = Preference("", "What do I do on Sundays?", "falconry")
    assert expand(record, source, pool=[Preference("", "x?", "y", phrases=(("a", "a?"),))]) == [record_pair(record)]


def record_pair(record):
    return (record.subject, record.question)


def test_braces_are_only_text():
    phrases = expand(("hobby", "What's my {0} hobby {}?"), "lexicon", 2)
    assert phrases[1] == ("pastime", "What's my {0} pastime {}?")


def test_a_wrong_source_or_size_is_named():
    with pytest.raises(RegistryError, match="Did you mean 'lexicon'"):
        expand("hobby", "lexikon")
    for size in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="whole number"):
            expand("hobby", size=size)


@pytest.mark.parametrize("cluster", [[], [""], ("a",), ("a", ""), ["a", 3], 5, None, {"a": "b"}])
def test_a_malformed_cluster_is_refused(cluster):
    with pytest.raises(DataError):
        expand(cluster)


def test_the_official_clusters_come_through_whole(official_data):
    records = json.loads((official_data / "upqa" / "balanced_subset_cluster9.json").read_text())
    for record in records:
        *further, original = zip(record["attribute_type"], record["question"], record["target"])
        preference = Preference(*original, phrases=tuple(pair[:2] for pair in further))
        assert len(expand(preference)) == len(set(record["question"]))
