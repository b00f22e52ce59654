"""PrefEval's two files, and what is refused."""

from __future__ import annotations

import pytest

from easyedit_personal.data.prefeval import PrefEvalRecord, load_inter_turns, load_prefeval
from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.errors import DataError
from tests.data.samples import PREFEVAL, without, write


def turns(*roles: str) -> dict:
    return {"conversation": [{"role": role, "content": f"{i}"} for i, role in enumerate(roles)], "model": "x"}


def test_records(tmp_path):
    path = write(tmp_path, [PREFEVAL, without(PREFEVAL, "explanation")])
    first, second = load_prefeval(path)
    assert first == PrefEvalRecord("I never eat nuts.", "Which cake should I try?", "Many have nuts.")
    assert second.explanation == ""


def test_items_ask_for_the_topic(tmp_path):
    (item,) = UPQADataset(write(tmp_path, [PREFEVAL], "travel_restaurant.json")).items
    assert item.id == "travel-restaurant-000" and item.subject == "travel restaurant preference"
    assert item.question == "What's my travel restaurant preference?"
    assert item.target == item.persona == PREFEVAL["preference"]
    assert (item.implicit, item.product) == (PREFEVAL["question"], "")
    assert item.negated == "What's not my travel restaurant preference?" and len(item.locality) == 3


@pytest.mark.parametrize(
    ("record", "needle"),
    [
        (3, "record 1: is 3 (int), expected an object"),
        (without(PREFEVAL, "question"), "record 1, question: is missing"),
        ({**PREFEVAL, "preference": ""}, "record 1, preference: is '', expected a text"),
        ({**PREFEVAL, "explanation": 1}, "record 1, explanation: is 1 (int)"),
    ],
)
def test_faulty_records_are_refused(record, needle, tmp_path):
    path = write(tmp_path, [PREFEVAL, record])
    for read in (load_prefeval, UPQADataset):
        with pytest.raises(DataError) as caught:
            read(path)
        assert needle in str(caught.value) and "nothing was loaded" in str(caught.value)


def test_conversations_drop_a_last_message_without_answer(tmp_path):
    path = write(tmp_path, [turns("user", "assistant", "user"), turns("user", "assistant")])
    assert [len(messages) for messages in load_inter_turns(path)] == [2, 2]


@pytest.mark.parametrize(
    ("record", "needle"),
    [
        ("x", "record 1, conversation: is None"),
        ({"conversation": []}, "record 1, conversation: is []"),
        (turns("user"), "two or more messages"),
        (turns("assistant", "user"), "record 1, conversation[0]"),
        (turns("user", "user"), "record 1, conversation[1]"),
        ({"conversation": [{"role": "user", "content": "a"}, {"role": "assistant"}]}, "conversation[1].content"),
        ({"conversation": [{"role": "user", "content": "a"}, 7]}, "conversation[1]: is 7"),
    ],
)
def test_faulty_conversations_are_refused(record, needle, tmp_path):
    with pytest.raises(DataError) as caught:
        load_inter_turns(write(tmp_path, [turns("user", "assistant"), record]))
    assert needle in str(caught.value)


def test_official_files(official_data):
    folder = official_data / "prefeval"
    dataset = UPQADataset(folder / "travel_restaurant.json")
    assert len(dataset) == len(load_prefeval(folder / "travel_restaurant.json")) == 56
    assert all(row["subject"] in row["prompt"] for row in dataset)
    conversations = load_inter_turns(folder / "filtered_inter_turns.json")
    assert len(conversations) == 24 and all(len(messages) % 2 == 0 for messages in conversations)
