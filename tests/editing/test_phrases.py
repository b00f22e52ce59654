"""Which requests belong together, and how a preference gets its phrases."""

from __future__ import annotations

import pytest

from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.editing.phrases import cluster_phrases, without_overruled
from easyedit_personal.editing.requests import as_request
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.types import Preference

HOBBY = {"prompt": "What's my hobby?", "target_new": "chess", "subject": "hobby", "user": "ann"}


def phrases(llama, tokenizer, requests, **cluster):
    return cluster_phrases(llama, tokenizer, requests, PersonalizationHyperParams(cluster=cluster))[0]


def test_the_lexicon_gives_phrases_with_the_same_target(llama, tokenizer):
    found = phrases(llama, tokenizer, [HOBBY], size=5)
    assert len(found) == 5 and found[-1].prompt == HOBBY["prompt"]
    assert {phrase.target_new for phrase in found} == {"chess"} and len({phrase.cluster for phrase in found}) == 1
    assert all(phrase.subject in phrase.prompt for phrase in found)
    assert len({phrase.prompt for phrase in found}) == 5


def test_given_phrases_win_over_the_lexicon(llama, tokenizer):
    given = {**HOBBY, "cluster": [{"prompt": "What's my sport?", "subject": "sport"}] * 3}
    assert [phrase.prompt for phrase in phrases(llama, tokenizer, [given])] == ["What's my sport?", HOBBY["prompt"]]


@pytest.mark.parametrize(("size", "source"), [(1, "auto"), (9, "dataset")])
def test_the_bare_question_stays_alone(llama, tokenizer, size, source):
    assert [phrase.prompt for phrase in phrases(llama, tokenizer, [HOBBY], size=size, source=source)] == [
        HOBBY["prompt"]
    ]


def test_neighbours_are_the_users_other_names_for_it(llama, tokenizer):
    pastime = {"prompt": "What is my pastime?", "target_new": "chess", "subject": "pastime", "user": "ann"}
    strangers = {**pastime, "prompt": "What is my diversion?", "subject": "diversion", "user": "bob"}
    found = phrases(llama, tokenizer, [HOBBY, pastime, strangers], source="neighbours", size=3)
    assert "What's my pastime?" in [phrase.prompt for phrase in found]
    assert "What's my diversion?" not in [phrase.prompt for phrase in found]


def test_same_value_under_two_names_is_one_preference(llama, tokenizer):
    pastime = {"prompt": "What is my pastime?", "target_new": "Chess", "subject": "pastime", "user": "ann"}
    drink = {"prompt": "What is my favorite drink?", "target_new": "chess", "subject": "favorite drink", "user": "ann"}
    stranger = {**pastime, "user": "bob"}
    found = phrases(llama, tokenizer, [HOBBY, pastime, drink, stranger], size=1)
    assert found[0].cluster == found[1].cluster
    assert len({phrase.cluster for phrase in found}) == 3


def test_contradictions_of_one_user_only():
    later = {**HOBBY, "target_new": "golf", "prompt": "what's my hobby? "}
    stranger = {**HOBBY, "user": "bob"}
    kept, notes = without_overruled([HOBBY, stranger, later])
    assert kept == [stranger, later] and len(notes) == 1 and "chess" in notes[0] and "golf" in notes[0]
    assert without_overruled([HOBBY, dict(HOBBY)]) == ([HOBBY], [])


def test_an_attribute_that_its_question_does_not_name_letter_by_letter_has_synonyms_too(llama, tokenizer):
    """The span in the prompt is the key's; the lexicon is asked for the attribute's name."""
    asked = as_request(Preference("favorite food", "Which foods do I like best?", "noodles"))
    found = phrases(llama, tokenizer, [asked], size=4)
    assert (asked["subject"], found[-1].subject, len(found)) == ("foods", "foods", 4)
    assert all(phrase.subject in phrase.prompt for phrase in found)


def test_a_given_phrase_names_its_subject_as_a_data_set_does(llama, tokenizer):
    """As ``UPQAItem.requests`` has it for the other editors: whole words, in any case, with an ending."""
    item = UPQADataset.bundled().items[0]
    wanted = [(request.prompt, request.subject) for request in item.requests(4)]
    found = phrases(llama, tokenizer, [as_request(item.preference(4))], size=4)
    assert [(phrase.prompt, phrase.subject) for phrase in found] == wanted
    given = {**HOBBY, "cluster": [{"prompt": "Which Pets and carpets are mine?", "subject": "pet"}]}
    assert phrases(llama, tokenizer, [given])[0].subject == "Pets"
