"""Distractor turns: short, about nobody, repeatable."""

from __future__ import annotations

import re

import pytest

from easyedit_personal.data import distractor_turns, load_conversations
from easyedit_personal.data.jsonfile import read_json_list
from easyedit_personal.data.material import BUNDLED
from easyedit_personal.errors import DataError
from tests.data.samples import write


def test_bundled_exchanges_are_short_and_many():
    conversations = load_conversations()
    assert len(conversations) >= 30 and len({c[0]["content"] for c in conversations}) == len(conversations)
    for user, assistant in conversations:
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        for message in (user, assistant):
            assert 1 <= len(re.findall(r"[.!?](?:\s|$)", message["content"])) <= 2
            assert len(message["content"].split()) <= 20


def test_bundled_exchanges_touch_nobody_s_preference():
    records = read_json_list(BUNDLED / "upqa_bundled.json")
    text = " ".join(message["content"] for c in load_conversations() for message in c)
    for value in {record["target"][-1] for record in records}:
        assert not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE), value
    assert not re.search(r"\bmy (favorite|hobby|job|pet)\b", text, re.IGNORECASE)


@pytest.mark.parametrize("n", [0, 1, 10, 30])
def test_turns_alternate_and_repeat_with_the_seed(n):
    turns = distractor_turns(n, seed=3)
    assert [message["role"] for message in turns] == ["user", "assistant"] * n
    assert turns == distractor_turns(n, seed=3)
    assert len({message["content"] for message in turns[::2]}) == n


def test_seeds_differ_and_longer_begins_like_shorter():
    assert distractor_turns(5, seed=1) != distractor_turns(5, seed=2)
    assert distractor_turns(10, seed=1)[:10] == distractor_turns(5, seed=1)


def test_callers_cannot_spoil_the_source():
    distractor_turns(2, seed=0)[0]["content"] = "spoiled"
    assert "spoiled" not in {message["content"] for message in distractor_turns(30, seed=0)}


@pytest.mark.parametrize("n", [-1, 1.5, True, "2", None, 10_000])
def test_impossible_numbers_are_refused(n):
    with pytest.raises(DataError):
        distractor_turns(n, seed=0)


def test_longer_conversations_stay_together(tmp_path):
    talks = [
        {"conversation": [{"role": r, "content": f"{name}{i}"} for i, r in enumerate(["user", "assistant"] * 2)]}
        for name in "ab"
    ]
    path = write(tmp_path, talks)
    contents = [message["content"] for message in distractor_turns(3, seed=0, source=path)]
    assert contents in (["a0", "a1", "a2", "a3", "b0", "b1"], ["b0", "b1", "b2", "b3", "a0", "a1"])
    with pytest.raises(DataError, match="at most 4"):
        distractor_turns(5, seed=0, source=path)


def test_official_conversations(official_data):
    path = official_data / "prefeval" / "filtered_inter_turns.json"
    assert len(distractor_turns(10, seed=0, source=path)) == 20
