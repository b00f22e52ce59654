"""What counts as the same answer, and what does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_personal.generation import shared_prefix
from easyedit_personal.generation.score import (
    contained,
    embedding_similarity,
    exact,
    log_likelihoods,
    repetition,
    teacher_forced,
    teacher_forced_tokens,
    token_f1,
)
from easyedit_personal.modeling.tokens import encode


@pytest.mark.parametrize(
    ("answer", "target", "is_exact", "is_contained"),
    [
        ("Hiking.", "hiking", True, True),
        ("  rock-climbing ", "Rock climbing", True, True),
        ("Your hobby is hiking, of course", "hiking", False, True),
        ("hitchhiking", "hiking", False, False),
        ("hiking boots", "hiking  boots!", True, True),
        ("boots for hiking", "hiking boots", False, False),
        ("Mum\u2019s garden", "Mum's garden", True, True),
        ("cafe\u0301 crème", "caf\u00e9 crème", True, True),
        ("", "", False, False),
        ("anything", "?!", False, False),
        ("", "hiking", False, False),
        ("東京 タワー", "東京", False, True),
    ],
)
def test_exact_and_contained(answer, target, is_exact, is_contained):
    assert exact(answer, target) is is_exact
    assert contained(answer, target) is is_contained


@given(st.text(max_size=30), st.text(max_size=30))
def test_scores_are_consistent(answer, target):
    assert 0 <= token_f1(answer, target) <= 1
    if exact(answer, target):
        assert contained(answer, target) and token_f1(answer, target) == 1
    if contained(answer, target):
        assert token_f1(answer, target) > 0


def test_f1_counts_words_as_often_as_they_occur():
    assert token_f1("tea tea tea", "tea") == pytest.approx(0.5)
    assert token_f1("green tea", "mint tea") == pytest.approx(0.5)


def test_repetition_tells_a_loop_from_a_sentence():
    assert repetition("I like to walk in the hills") == 0
    assert repetition("tea and tea and tea and tea and tea and") > 0.7
    assert repetition("") == repetition("tea") == 0


def test_teacher_forcing_scores_the_models_own_words_as_right(llama, tokenizer):
    prompts = ["What's my hobby?", "Who is your doctor and where do they live?"]
    guesses = [guess for guess, _ in teacher_forced_tokens(llama, tokenizer, [(p, "a b c") for p in prompts])]
    for prompt, guess in zip(prompts, guesses):
        first = tokenizer.decode(guess[:1])
        if first.strip():
            assert teacher_forced(llama, tokenizer, [(prompt, first.strip())])[0] in (0.0, 1.0)
    shares = teacher_forced(llama, tokenizer, [(p, "a b c d e f") for p in prompts])
    alone = [teacher_forced(llama, tokenizer, [(p, "a b c d e f")])[0] for p in prompts]
    assert shares == alone


def test_teacher_forced_tokens_have_the_targets_length_and_no_end_token(llama, tokenizer):
    target = "hiking in the hills"
    ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    guess, wanted = teacher_forced_tokens(llama, tokenizer, [("What's my hobby?", target)])[0]
    assert wanted == ids and len(guess) == len(ids)
    assert teacher_forced(llama, tokenizer, []) == []


class Letters:
    """Embeds a text by whether it holds an "a"."""

    def embed(self, texts):
        import numpy as np

        return np.array([[1.0, 0.0] if "a" in text else [0.0, 1.0] for text in texts])


def test_embedding_similarity_is_zero_for_an_empty_answer():
    assert embedding_similarity(["tea", "", "milk"], ["a", "b", "a"], Letters()) == [1.0, 0.0, 0.0]
    assert embedding_similarity([], [], Letters()) == []


def test_log_likelihoods_are_those_of_each_row_alone(any_model, tokenizer, monkeypatch):
    """Rows of different lengths, what they begin with read once; every token but the first counts."""
    rows = [encode(tokenizer, text, target="by the sea") for text in ("What is my pet?", "What is my hobby?", "hi")]
    monkeypatch.setattr(shared_prefix, "SAVED", 1)
    assert shared_prefix.slides(any_model) or shared_prefix.shared_length(any_model, rows)
    for found, row in zip(log_likelihoods(any_model, tokenizer, rows), rows):
        with torch.no_grad():
            wanted = any_model(torch.tensor([row.ids])).logits[0, :-1].log_softmax(-1)
        wanted = wanted.gather(1, torch.tensor(row.ids[1:])[:, None])[:, 0]
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
