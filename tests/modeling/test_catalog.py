"""The catalogue says what is true of the shipped settings, and a model keeps its name."""

from __future__ import annotations

import pytest

from easyedit_personal.errors import ModelError
from easyedit_personal.hparams import PersonalizationHyperParams, shipped_yaml
from easyedit_personal.modeling.catalog import MODELS, ORIGIN_FILE, Origin, known_model, model_label
from tests.tiny import tiny_model


@pytest.mark.parametrize("name", sorted(shipped_yaml()))
def test_every_shipped_yaml_is_for_a_known_model(name):
    model = name.removesuffix("-linear")
    assert PersonalizationHyperParams.from_hparams(name).model_name in (model, MODELS[model].hub_id)


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(ModelError, match=r"no model named 'smolm2'. Did you mean 'smollm2'\?") as error:
        known_model("smolm2")
    assert "gemma3-270m" in str(error.value) and "easyedit-personal models" in str(error.value)


def test_every_known_model_has_settings():
    assert {*MODELS, "smollm2-linear"} == shipped_yaml().keys()


def test_a_model_is_called_by_name_and_source(tmp_path):
    model = tiny_model("llama")
    assert model_label(model) == "LlamaForCausalLM"
    model.config._name_or_path = str(tmp_path)
    assert model_label(model) == tmp_path.name
    model.config._name_or_path = "somebody/tiny"
    assert model_label(model) == "somebody/tiny"
    model.config._name_or_path = str(tmp_path)
    Origin("tiny", "package tiny-llama-gguf==1.0", "MIT").write(tmp_path)
    assert model_label(model) == "tiny (package tiny-llama-gguf==1.0)"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1', "\x00"])
def test_a_damaged_origin_is_no_reason_to_stop(tmp_path, text):
    (tmp_path / ORIGIN_FILE).write_text(text)
    assert Origin.read(tmp_path) is None
