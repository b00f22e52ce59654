"""Malformed records: the index, the field and what was expected, all at once, and nothing half loaded."""

from __future__ import annotations

import pytest

from easyedit_personal.data.records import REQUIRED, UPQAItem, check_records, find_subject
from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.errors import DataError
from tests.data.samples import CLUSTERED, FLAT, without, write

LONG = " ".join("abcdefghijklmnopqrst")

# What the record is, and what must be told about it.
MALFORMED = {
    "no object": ("text", ["record 1: is 'text' (str), expected an object"]),
    "null": (None, ["record 1: is None (NoneType), expected an object"]),
    "an empty object": ({}, [f"record 1, {key}: is missing" for key in REQUIRED]),
    "a number as a text": ({**FLAT, "question_paraphrased": 3}, ["record 1, question_paraphrased: is 3 (int)"]),
    "a blank text": ({**FLAT, "implicit_question": " "}, ["record 1, implicit_question: is ' '", "not blank"]),
    "a list as a text": ({**FLAT, "input_attribute": ["x"]}, ["record 1, input_attribute: is ['x'] (list)"]),
    "half a surrogate pair": ({**FLAT, "input_attribute": "\ud83d"}, ["record 1, input_attribute", "surrogates"]),
    "a target of null": ({**FLAT, "target": None}, ["record 1, target: is None (NoneType), expected a text"]),
    "an empty target": ({**FLAT, "target": ""}, ["record 1, target: is '', expected a text that is not blank"]),
    "both layouts in one record": (
        {**FLAT, "question": ["a", "b"]},
        ["attribute_type: is 'instrument'", "like question"],
    ),
    "a misspelled probe": ({**FLAT, "localty": []}, ["record 1, localty: is no field of ours", "'locality'"]),
    "a probe without answer": ({**FLAT, "locality": [{"question": "q"}]}, ["record 1, locality: entry 0"]),
    "probes that are no list": ({**FLAT, "locality": "none"}, ["record 1, locality: is 'none'"]),
    "an unrelated question of null": ({**FLAT, "unrelated": ["a", None]}, ["record 1, unrelated: entry 1"]),
    "a strange split": ({**FLAT, "split": "train"}, ["record 1, split: is 'train', expected one of tune, test"]),
    "a number as id": ({**FLAT, "id": 7}, ["record 1, id: is 7 (int), expected a text"]),
    "an empty negation": ({**FLAT, "negated_question": ""}, ["record 1, negated_question: is ''"]),
}
MALFORMED_CLUSTERS = {
    "lists of different length": (
        {**CLUSTERED, "target": ["harp"]},
        ["record 1", "attribute_type has 3, question has 3, target has 1 entries"],
    ),
    "empty lists": (
        {**CLUSTERED, "attribute_type": [], "question": [], "target": []},
        [f"record 1, {key}: is empty" for key in ("attribute_type", "question", "target")],
    ),
    "a hole in a list": ({**CLUSTERED, "question": ["a", None, "c"]}, ["record 1, question[1]: is None"]),
    "a list in a list": ({**CLUSTERED, "target": [["a"], "b", "c"]}, ["record 1, target[0]: is ['a'] (list)"]),
    "flat among clustered": (FLAT, ["record 1: is flat while record 0 is clustered"]),
}


def told(records: list, folder) -> str:
    with pytest.raises(DataError) as caught:
        UPQADataset(write(folder, records))
    return str(caught.value)


@pytest.mark.parametrize("name", MALFORMED)
def test_flat_faults_are_told(name, tmp_path):
    record, needles = MALFORMED[name]
    message = told([FLAT, record], tmp_path)
    assert "nothing was loaded" in message
    for needle in needles:
        assert needle in message


@pytest.mark.parametrize("name", MALFORMED_CLUSTERS)
def test_cluster_faults_are_told(name, tmp_path):
    record, needles = MALFORMED_CLUSTERS[name]
    message = told([CLUSTERED, record], tmp_path)
    for needle in needles:
        assert needle in message


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize("record", [FLAT, CLUSTERED], ids=["flat", "clustered"])
def test_each_missing_field_is_named(record, key, tmp_path):
    assert f"record 0, {key}: is missing" in told([without(record, key)], tmp_path)


def test_all_faults_are_told_at_once(tmp_path):
    message = told([{**FLAT, "target": 1}, FLAT, {**FLAT, "question": "", "implicit_question": 2}], tmp_path)
    assert message.count("record ") == 3 and "3 faults in 3 records" in message
    assert "record 0, target" in message and "record 2, question" in message and "record 2, implicit" in message


def test_faults_beyond_the_limit_are_counted(tmp_path):
    message = told([{**FLAT, "target": 1}] * 50, tmp_path)
    assert "50 faults in 50 records" in message and "and 30 more" in message
    assert "record 19, target" in message and "record 20, target" not in message


def test_no_message_floods_the_terminal(tmp_path):
    assert len(told([{**FLAT, "target": ["x" * 100_000]}], tmp_path)) < 1000


def test_repeated_ids_are_refused():
    with pytest.raises(DataError, match="record 2, id: is 'a' like record 0"):
        check_records([{**FLAT, "id": "a"}, {**FLAT, "id": "b"}, {**FLAT, "id": "a"}], "memory")


def test_foreign_fields_are_let_through():
    assert check_records([{**FLAT, "annotator": 3, "source": None}], "memory") == "flat"


@pytest.mark.parametrize(
    ("name", "question", "span"),
    [
        ("hobby", "What's my hobby?", "hobby"),
        ("Hobby", "What's my hobby?", "hobby"),
        ("pet", "What do my pets and carpets need?", "pets"),
        ("pet", "What about the carpet?", None),
        ("food preference", "What's my food preference?", "food preference"),
        ("food preference", "What kind of food do I prefer?", "food"),
        ("food preference", "Which foods do I like?", "foods"),
        (LONG, f"Is it {LONG}?", LONG),
        ("爱好", "我的爱好是什么", "爱好"),
        ("line of work", "Of which line am I?", "line"),
        ("line of work", "What kind of work do I do?", "work"),
        ("line of work", "What am I fond of?", None),
        ("favorite color", "Which color  do I like?", "color"),
        ("c++ (language)", "Is c++ (language) mine?", "c++ (language)"),
        ("café order", "What's my café  order?", "café  order"),
        ("hobby", "What do I do for fun?", None),
        ("", "Anything?", None),
    ],
)
def test_subject_stands_literally_in_the_question(name, question, span):
    assert find_subject(name, question) == span
    assert span is None or span in question


ITEM = UPQAItem(
    id="u",
    persona="I play the harp.",
    subject="instrument",
    question="What's my instrument?",
    paraphrase="What do I play?",
    implicit="i",
    product="p",
    target="harp",
    cluster=(("a", "my a?"), ("b", "my b?"), ("c", "what c?"), ("instrument", "What's my instrument?")),
)


@pytest.mark.parametrize(
    ("size", "names"), [(1, "instrument"), (2, "a instrument"), (3, "a b instrument"), (4, "a b c instrument")]
)
def test_cluster_keeps_the_original_and_the_first_others(size, names):
    requests = ITEM.requests(size)
    assert [request.subject for request in requests] == names.split()
    assert {(r.target_new, r.cluster, r.user) for r in requests} == {("harp", "u", "u")}
    assert requests[-1].prompt == "What's my instrument?"
    assert ITEM.preference(size).phrases == ITEM.phrases(size)[:-1]


def test_cluster_without_a_size_is_whole():
    assert ITEM.phrases() == ITEM.cluster
    assert ITEM.preference().text == "I play the harp."


@pytest.mark.parametrize("size", [0, -1, 5, 1.5, "3", True])
def test_cluster_sizes_that_do_not_exist_are_refused(size):
    with pytest.raises(DataError, match="from 1 to 4"):
        ITEM.phrases(size)
