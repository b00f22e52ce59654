"""Phrases behind other turns: as many as asked for, with the model's own words, and only where they fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.base import encode_request, frozen
from easyedit_personal.kernels.lowrank import lowrank
from easyedit_personal.kernels.objective import in_parts, target_loss
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.kernels.training_prompts import training_phrases
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.types import EditRequest
from tests.tiny import tiny_model

MODULE = "easyedit_personal.kernels.training_prompts"

REQUESTS = [EditRequest(f"What's my {name}?", "falconry", name, cluster="c") for name in ("pastime", "hobby")]
OTHER = [EditRequest("What's my pet called?", "Rex", "pet", cluster="d")]


def settings(behind: int) -> PersonalizationHyperParams:
    return PersonalizationHyperParams(
        layers=[1],
        cluster={"behind": behind, "indirect": 2},
        lowrank={"steps": 2, "polish": 0, "rank": 2},
        preserve={"weight": 0.0, "answer_tokens": 4},
    )


@pytest.fixture
def roomy():
    return tiny_model("llama", initializer_range=0.2, max_position_embeddings=1024)


def test_some_phrases_come_again_behind_other_turns(roomy, tokenizer):
    plain = training_phrases(roomy, tokenizer, [*REQUESTS, *OTHER], settings(0))
    phrases = training_phrases(roomy, tokenizer, [*REQUESTS, *OTHER], settings(3))
    assert phrases[: len(plain)] == plain and not any(request.history for request in plain)
    behind = phrases[len(plain) :]
    assert [request.cluster for request in behind] == ["c"] * 3 + ["d"] * 3
    assert [len(request.history) for request in behind] == [1, 1, 2] * 2
    assert behind[0].prompt == "What's my hobby?" and behind[1].subject is None  # the asked one, an indirect one
    known = {request.prompt for request in plain}
    assert {request.prompt for request in behind} <= known
    assert {turn[0] for request in behind for turn in request.history} <= set(Material.load().neutral)
    assert phrases == training_phrases(roomy, tokenizer, [*REQUESTS, *OTHER], settings(3))


def test_a_single_question_is_asked_behind_different_turns(roomy, tokenizer):
    behind = [r for r in training_phrases(roomy, tokenizer, REQUESTS[1:], settings(6)) if r.history]
    own = [request for request in behind if request.prompt == REQUESTS[1].prompt]
    assert len(own) == 3 and len({request.history for request in own}) == 3


@pytest.mark.parametrize("said", [[], [("Hello.", "Hi.")]])
def test_a_model_of_few_words_is_no_obstacle(roomy, tokenizer, monkeypatch, said):
    monkeypatch.setattr("easyedit_personal.kernels.training_prompts.small_talk", lambda *_: said)
    phrases = training_phrases(roomy, tokenizer, REQUESTS, settings(4))
    assert [request.history for request in phrases if request.history] == [tuple(said)] * (4 if said else 0)


def test_the_turns_before_stand_in_the_prompt_in_their_order(roomy, tokenizer):
    request = EditRequest("Who?", "me", history=(("First", "one"), ("Second", "two")))
    text = tokenizer.decode(encode_request(tokenizer, request, settings(0)).prompt_ids)
    places = [text.index(word) for word in ("First", "one", "Second", "two", "Who?")]
    assert places == sorted(places)


def test_what_does_not_fit_the_context_stays_out(tokenizer):
    model = tiny_model("llama", initializer_range=0.2, max_position_embeddings=120)
    phrases = training_phrases(model, tokenizer, REQUESTS, settings(4))
    assert all(len(encode_request(tokenizer, request, settings(4)).ids) <= 120 for request in phrases)
    assert lowrank(model, tokenizer, REQUESTS, settings(4))[0].rank == 2


@pytest.mark.parametrize("size", [None, 3])
def test_parts_and_groups_of_one_length_give_the_losses_in_the_rows_order(roomy, tokenizer, size):
    phrases = training_phrases(roomy, tokenizer, REQUESTS, settings(2))
    rows = [encode_request(tokenizer, request, settings(2)) for request in reversed(phrases)]
    layout = find_layout(roomy)
    with frozen(roomy):
        parts = in_parts(roomy, tokenizer, layout, rows, [1], size)
        together = target_loss(roomy, tokenizer, layout, rows, [1], size)({})
        alone = [float(target_loss(roomy, tokenizer, layout, [row], [1])({})) for row in rows]
    assert len(parts) == (1 if size is None else 2)
    assert max(len(part) for part in parts) > 1  # long rows are not padded beside short ones
    assert sorted(i for part in parts for group, _ in part for i in group) == list(range(len(rows)))
    assert together.tolist() == pytest.approx(alone, rel=1e-4)


def test_what_does_not_fit_behind_turns_is_left_out(roomy, tokenizer, monkeypatch):
    lengths = lambda phrases: [len(encode_request(tokenizer, one, settings(6)).ids) for one in phrases]
    phrases = training_phrases(roomy, tokenizer, REQUESTS, settings(6))
    longest = max(lengths(phrases))
    monkeypatch.setattr("easyedit_personal.kernels.training_prompts.context_limit", lambda model: longest - 1)
    fitting = training_phrases(roomy, tokenizer, REQUESTS, settings(6))
    assert fitting == [one for one, length in zip(phrases, lengths(phrases)) if length < longest]
    for limit in (longest, None):
        monkeypatch.setattr(
            "easyedit_personal.kernels.training_prompts.context_limit", lambda model, limit=limit: limit
        )
        assert training_phrases(roomy, tokenizer, REQUESTS, settings(6)) == phrases


def test_indirect_questions_take_turns_behind_other_turns(roomy, tokenizer):
    behind = [r for r in training_phrases(roomy, tokenizer, OTHER, settings(6)) if r.history]
    assert len({request.prompt for request in behind}) == 3  # the one that was asked, and both indirect ones


def test_a_request_in_no_cluster_is_asked_as_one_in_a_cluster_of_its_own(roomy, tokenizer):
    clustered = training_phrases(roomy, tokenizer, OTHER, settings(6))
    alone = training_phrases(roomy, tokenizer, [replace(OTHER[0], cluster=None)], settings(6))
    assert [replace(one, cluster="d") for one in alone] == clustered and len({one.cluster for one in alone}) == 1
