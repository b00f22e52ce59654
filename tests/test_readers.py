"""The questions that readers are fitted on: many, of every kind, and none that an evaluation asks."""

from __future__ import annotations

import json

import numpy as np
import yaml

from benchmarks.gates import OWN, tune_questions
from benchmarks.readers import FOLDER, NEAR, NOTHING, our_questions, shares
from easyedit_personal.clustering.lexicon import Lexicon
from easyedit_personal.data.beginnings import contrasts


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def test_every_kind_has_hundreds_of_questions_once_each():
    found = our_questions()
    assert {entry.group for entry in Lexicon.load().entries} == set(found)
    for group, texts in found.items():
        assert len(texts) >= 300 and len({plain(text) for text in texts}) == len(texts), group


def test_none_is_asked_by_our_own_evaluation():
    asked = {plain(text) for text, _, _ in tune_questions()}
    assert not asked.intersection(plain(text) for texts in our_questions().values() for text in texts)


def test_none_is_asked_by_the_official_evaluation(official_data):
    official: set[str] = set()
    for path in (official_data / "upqa").glob("*.json"):
        for record in json.loads(path.read_text(encoding="utf-8")):
            asked = [value for key, value in record.items() if "question" in key]
            official |= {plain(text) for value in asked for text in ([value] if isinstance(value, str) else value)}
    assert official and not official.intersection(plain(t) for texts in our_questions().values() for t in texts)


def test_what_is_refused_is_at_hand_and_names_what_its_templates_leave_open():
    others = yaml.safe_load((FOLDER / "others.yaml").read_text(encoding="utf-8"))
    assert all(others[part] for part in NOTHING)
    assert all("{n}" in text for part in NEAR for text in getattr(contrasts(), part))


def test_the_threshold_lets_a_twentieth_of_the_others_through_and_spares_related_kinds():
    asked = [("own", "direct", "a"), ("near", "direct", "b"), *((f"o{i}", "direct", "c") for i in range(100))]
    scores = np.array([95.5, 1000.0, *range(100)])
    assert shares(scores, asked, "a", {"a", "b"})["direct"] == [True]
    assert shares(scores - np.array([90, *[0] * 101]), asked, "a", {"a", "b"})["direct"] == [False]
    assert set(shares(scores, asked, "a", {"a"})) == set(OWN)
