"""The corpus' rules: what may be answered with a stated value, and what training may see."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from random import Random

import pytest
import torch

from tests.tiny_model import train as training
from tests.tiny_model.corpus import Corpus, Mix
from tests.tiny_model.dialogues import Speaker
from tests.tiny_model.lexicon import close, load_lexicon
from tests.tiny_model.recipe import RECIPES, STAGES, Cycle, Recipe, Stage
from tests.tiny_model.tokenizer import END, PAD, ROLES, render, train_tokenizer
from tests.tiny_model.values import HELD_ENDINGS, invented_word, piece_string


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is my hobby? falconry " * 3], vocabulary=300)


@pytest.fixture
def speaker():
    return Speaker(load_lexicon(), Random(3))


def test_every_type_is_asked_about_in_many_ways():
    for attribute in load_lexicon().attributes:
        assert len(attribute.names) >= 9
        for kind, least in (("statements", 4), ("questions", 5), ("implicit", 12), ("product", 4), ("values", 9)):
            assert len(set(attribute.train[kind])) >= least, (attribute.name, kind)
        assert all(set(attribute.train[kind]).isdisjoint(attribute.held[kind]) for kind in attribute.held)


def test_traps_never_answer_with_the_users_value(speaker):
    corpus = Corpus(Mix(rows={"recall": 1}, traps=1.0), seed=8)
    for attribute in load_lexicon().attributes:
        known = corpus.speaker.learn(attribute)
        (_, question), (role, answer) = corpus._trap(known, [known])
        assert role == "assistant" and question and known.value not in answer


def test_a_later_statement_wins():
    corpus = Corpus(Mix(rows={"override": 1}, questions=(1,)), seed=2)
    learned, learn = [], corpus.speaker.learn
    corpus.speaker.learn = lambda attribute: learned.append(learn(attribute)) or learned[-1]
    for row in islice(corpus, 40):
        earlier, later = learned[0].value, learned[-1].value
        told = next(i for i, (role, text) in enumerate(row.turns) if role == "user" and later in text)
        answers = [text for role, text in row.turns[told + 2 :] if role == "assistant"]  # after the acknowledgement
        assert any(later in text for text in answers) and not any(earlier in text for text in answers)
        learned.clear()


def test_types_stated_together_are_not_close(speaker):
    for _ in range(20):
        chosen = speaker.far_from([], 4)
        assert len(chosen) == 4
        assert not any(close(a, b) for i, a in enumerate(chosen) for b in chosen[:i])


def test_invented_words_of_training_and_evaluation_differ():
    rng = Random(1)
    assert not any(invented_word(rng).endswith(HELD_ENDINGS) for _ in range(500))
    assert all(invented_word(rng, held=True).endswith(HELD_ENDINGS) for _ in range(100))


def test_pieces_become_values_only_where_the_stage_says(tokenizer):
    pieces = training.vocabulary_pieces(tokenizer)
    assert all(piece.strip().isalpha() for piece in pieces)
    value = piece_string(pieces, Random(4))
    assert value and value == " ".join(value.split())
    plain = list(islice(Corpus(Mix(rows={"recall": 1}), 6), 20))
    assert plain == list(islice(Corpus(Mix(rows={"recall": 1}), 6, pieces=pieces), 20))
    assert plain != list(islice(Corpus(Mix(rows={"recall": 1}, pieces=1.0), 6, pieces=pieces), 20))


def test_rows_are_rendered_as_the_chat_template_writes_them(tokenizer):
    for row in islice(Corpus(STAGES[2].mix, 1), 60):
        if row.turns:
            messages = [{"role": role, "content": text} for role, text in row.turns]
            assert tokenizer.apply_chat_template(messages, tokenize=False) == render(row)
        else:
            assert render(row).startswith(END) and render(row).endswith(END)


def test_a_value_has_the_same_pieces_in_a_statement_and_as_an_answer(tokenizer):
    ids = tokenizer(f"{ROLES['user']}I love falconry{END}{ROLES['assistant']}falconry{END}")["input_ids"]
    answer = ids[ids.index(tokenizer.convert_tokens_to_ids(ROLES["assistant"])) + 1 : -1]
    assert ids[ids.index(tokenizer.convert_tokens_to_ids(END)) - len(answer) :][: len(answer)] == answer


@pytest.mark.parametrize("kind", RECIPES.values(), ids=RECIPES)
def test_padding_changes_no_loss(tokenizer, kind):
    recipe = replace(kind, tokens=300, pool=6, stages=(Stage("a", 2, STAGES[0].mix),))
    model = training.build_model(tokenizer, recipe)
    model.set_attn_implementation("float32_causal")
    pad = tokenizer.convert_tokens_to_ids(PAD)
    step = max(training.Rows(tokenizer, recipe).stage(0, recipe.stages[0]), key=len)
    with torch.no_grad():
        together, _, tokens = training.step_loss(model, step, pad)
        alone = [training.step_loss(model, [row], pad)[0].item() * sum(row[1][1:]) for row in step]
    assert tokens == sum(len(ids) for ids, _ in step)
    assert together.item() == pytest.approx(sum(alone) / sum(sum(w[1:]) for _, w in step), rel=1e-4)


def test_rates_rise_and_fall_in_every_cycle():
    mix = STAGES[0].mix
    recipe = Recipe(
        warmup=10,
        stages=(Stage("a", 100, mix), Stage("b", 100, mix, cycle=1)),
        cycles=(Cycle(0, 1.0, 0.5), Cycle(1, 0.5, 0.5)),
    )
    rates = [training.rate(step, recipe) for step in range(recipe.steps)]
    assert max(rates) == rates[40] == 1.0 and rates[99] == pytest.approx(0.02)
    assert rates[100] < 0.1 and max(rates[100:]) == 0.5 and rates[-1] == pytest.approx(0.01)
