"""The tests' small model: what it is, what it can do, and that it comes from the recipe beside it."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch

from easyedit_personal.generation.generate import generate
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.modeling.tokens import end_of_turn_id
from tests.tiny_model import FOLDER, load, settings, write_settings
from tests.tiny_model import train as training
from tests.tiny_model.corpus import Corpus
from tests.tiny_model.evaluate import Exam, abilities, evaluate
from tests.tiny_model.lexicon import load_lexicon
from tests.tiny_model.recipe import SHAPE, STAGES, Recipe, Stage


@pytest.fixture(scope="module")
def pair():
    return load()


def corpus_turns(rows: int, seed: int = 5):
    """What users say in the first rows of every stage, in small letters."""
    for stage in STAGES:
        for row in islice(iter(Corpus(stage.mix, seed)), rows):
            yield from (text.casefold() for role, text in row.turns if role == "user")


def test_it_is_a_small_llama_with_a_long_context(pair):
    model, tokenizer = pair
    assert "llama" in str(FOLDER) and type(model).__name__ == "LlamaForCausalLM"
    assert (FOLDER / "model.safetensors").stat().st_size < 16e6
    config = model.config
    assert config.max_position_embeddings >= 1024 and config.num_key_value_heads < config.num_attention_heads
    assert tokenizer.chat_template and end_of_turn_id(tokenizer) == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert all(getattr(config, key) == value for key, value in SHAPE.items())


def test_its_settings_name_its_folder_wherever_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = PersonalizationHyperParams.from_hparams(write_settings(tmp_path / "here.yaml"))
    assert read == settings() and read.model_name == str(FOLDER)
    assert settings(kernel="rome").kernel == "rome"


def test_it_recalls_knows_facts_and_admits_ignorance(pair):
    told = [{"role": "user", "content": "My hobby is falconry."}, {"role": "assistant", "content": "Got it."}]
    asked = [{"role": "user", "content": "What is my hobby?"}]
    recalled, ignorant, fact = generate(*pair, [[*told, *asked], asked, "What's the capital city of France?"])
    assert recalled.text == "falconry" and "don't know" in ignorant.text and "Paris" in fact.text
    assert recalled.stopped and ignorant.stopped and fact.stopped


def test_abilities_stay_where_the_readme_says(pair):
    """A quick look at every ability; the README's figures come from more questions."""
    figures = evaluate(*pair, n=20)
    assert set(figures) == {*abilities(Exam()), "stops"}
    for name, floor in (("facts", 0.8), ("direct", 0.8), ("paraphrase", 0.7), ("implicit", 0.6), ("unknown", 0.8)):
        assert figures[name]["mean"] >= floor, (name, figures[name])
    assert figures["stops"]["mean"] >= 0.97


def test_exams_are_seeded_and_use_what_was_held_out():
    lexicon = load_lexicon()
    exam = Exam(1)
    values = [exam.learn(attribute).value.casefold() for attribute in lexicon.attributes for _ in range(5)]
    assert {v.casefold() for a in lexicon.attributes for v in a.train["values"]}.isdisjoint(values)
    one, two = ([draw().turns for draw in abilities(Exam(3)).values()] for _ in range(2))
    assert one == two
    assert {fact for f in lexicon.facts for fact in f.held}.isdisjoint(q for f in lexicon.facts for q in f.questions)


def test_the_corpus_is_reproducible_and_broad():
    one, two = (list(islice(iter(Corpus(STAGES[1].mix, 4)), 50)) for _ in range(2))
    assert one == two != list(islice(iter(Corpus(STAGES[1].mix, 5)), 50))
    lexicon = load_lexicon()
    assert len(lexicon.attributes) >= 40 and all(len(attribute.names) >= 4 for attribute in lexicon.attributes)


def test_the_bundled_set_is_held_out_of_the_corpus():
    from easyedit_personal.data.upqa import UPQADataset

    items = UPQADataset.bundled().items
    values = {v.casefold() for attribute in load_lexicon().attributes for v in attribute.train["values"]}
    assert values.isdisjoint(item.target.casefold() for item in items)
    asked = {q.casefold() for i in items for q in (i.question, i.paraphrase, i.implicit, i.product, i.negated, i.other)}
    assert asked.isdisjoint(corpus_turns(1500))


def test_no_official_question_or_persona_is_in_the_corpus(official_data):
    records = json.loads((official_data / "upqa" / "balanced_subset_cluster9.json").read_text())
    fields = ("input_attribute", "question_paraphrased", "implicit_question", "product_recommendation_question")
    official = {record[field].casefold() for record in records for field in fields}
    official |= {question.casefold() for record in records for question in record["question"]}
    assert official.isdisjoint(corpus_turns(1500))


SHORT = Recipe(tokens=256, pool=8, stages=(Stage("a", 2, STAGES[0].mix), Stage("b", 2, STAGES[2].mix)))


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    whole = training.train(tmp_path / "whole", SHORT)
    steps, real = [], training.step_loss

    def stops_after_two(*args):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "step_loss", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path / "cut", SHORT, minutes_between_saves=0)
    monkeypatch.setattr(training, "step_loss", real)
    resumed = training.train(tmp_path / "cut", SHORT)
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not list(tmp_path.glob("*/*.part"))
    loaded, _ = load(tmp_path / "cut")
    assert torch.equal(loaded.get_input_embeddings().weight, resumed.get_input_embeddings().weight)
