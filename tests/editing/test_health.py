"""What the health check looks at: perplexity, and what the model says when a person begins to talk."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from easyedit_personal.editing import health
from easyedit_personal.editing.health import (
    ANSWER_TOKENS,
    FIRST_QUESTIONS,
    HealthBaseline,
    answered,
    neutral_pairs,
    perplexity,
)
from easyedit_personal.hparams import PreserveParams
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.preserve import Material, preserve_prompts
from easyedit_personal.modeling.tokens import encode, stop_ids
from easyedit_personal.types import EditRequest, WeightDelta
from tests.tiny import tiny_model

PATH = "model.layers.2.mlp.down_proj"


def damage(size):
    torch.manual_seed(0)
    return WeightDelta(PATH, torch.randn(32, 1) * size, torch.randn(1, 48))


@pytest.fixture
def before(llama, tokenizer):
    return HealthBaseline.of(llama, tokenizer)


def test_neutral_text_is_about_the_world():
    pairs = neutral_pairs()
    assert len(pairs) == 24 == len({question for question, _ in pairs})
    assert not any(" my " in f" {question.lower()} " for question, _ in pairs)


def test_what_is_asked_first_is_not_among_what_edits_preserve():
    kept = Material.load()
    preserved = {prompt.text for prompt in preserve_prompts([EditRequest("What's my hobby?", "a")], PreserveParams())}
    assert not {*kept.neutral, *kept.open, *preserved} & {*FIRST_QUESTIONS}


def test_perplexity_is_over_questions_answers_and_ends(llama, tokenizer):
    pairs = [("What is fog?", "a low cloud"), ("What is snow?", "ice")]
    losses = []
    for question, answer in pairs:
        ids = torch.tensor([encode(tokenizer, question, target=answer).ids])
        with torch.no_grad():
            losses.append(-llama(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]))
    assert perplexity(llama, tokenizer, pairs) == pytest.approx(math.exp(float(torch.cat(losses).mean())), rel=1e-4)
    clean = perplexity(llama, tokenizer)
    with in_weights(llama, [damage(3.0)]):
        assert perplexity(llama, tokenizer) != clean
    assert perplexity(llama, tokenizer) == clean


def test_a_model_is_measured_once_and_an_edited_one_is_another(llama, tokenizer, before, monkeypatch):
    measured = []
    monkeypatch.setattr(health, "perplexity", lambda *_: measured.append(1) or 2.0)
    assert HealthBaseline.of(llama, tokenizer) == HealthBaseline.of(tiny_model("llama"), tokenizer) == before
    assert measured == []
    with in_weights(llama, [damage(0.1)]):
        assert HealthBaseline.of(llama, tokenizer).perplexity == 2.0
    assert HealthBaseline.of(llama, tokenizer) == before and measured == [1]


def test_other_answers_surprise_by_how_much_less_likely_they_are(llama, tokenizer, before):
    assert before.surprise(llama, tokenizer, before.rows) == 0.0
    nonsense = (7, 300, 11, 205)
    garbled = [replace(row, target_ids=nonsense) if number == 0 else row for number, row in enumerate(before.rows)]
    with torch.no_grad():
        logits = llama(torch.tensor([before.rows[0].prompt_ids + nonsense])).logits[0, -5:-1].log_softmax(-1)
    found = float(logits.gather(1, torch.tensor(nonsense)[:, None]).mean())
    wanted = (before.likelihoods[0] - found) / len(before.rows)
    assert before.surprise(llama, tokenizer, garbled) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0, "greedy answers are the likeliest that the model could give, token by token"


def test_only_answers_that_ended_before_have_to_end_now(llama, tokenizer, before):
    end = stop_ids(llama, tokenizer)[0]
    ends, goes_on = (9, end), (9,) * ANSWER_TOKENS
    rows = [replace(row, target_ids=ends if number < 4 else goes_on) for number, row in enumerate(before.rows)]
    own = replace(before, rows=tuple(rows))
    assert own.natural_stops(llama, tokenizer, rows) == 1.0
    assert own.natural_stops(llama, tokenizer, [replace(rows[0], target_ids=goes_on), *rows[1:]]) == 0.75
    never = replace(before, rows=tuple(replace(row, target_ids=goes_on) for row in rows))
    assert never.natural_stops(llama, tokenizer, never.rows) == 1.0, "a model that never ends is not the edit's doing"


def test_the_edited_model_answers_the_same_questions(llama, tokenizer, before):
    with in_weights(llama, [damage(3.0)]):
        rows = answered(llama, tokenizer, before.rows)
    assert [row.prompt_ids for row in rows] == [row.prompt_ids for row in before.rows]
    assert [row.target_ids for row in rows] != [row.target_ids for row in before.rows]
    assert answered(llama, tokenizer, rows) == list(before.rows)


def test_a_context_without_room_for_an_answer_is_not_asked(tokenizer):
    small = tiny_model("llama", max_position_embeddings=ANSWER_TOKENS + 1)
    found = HealthBaseline.of(small, tokenizer)
    assert found.rows == () and math.isfinite(found.perplexity)
    assert found.surprise(small, tokenizer, []) == 0.0 and found.natural_stops(small, tokenizer, []) == 1.0
