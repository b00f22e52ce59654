"""From names to settings: the very model's file wins, other models get derived ones, a file for another is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from easyedit_personal import PersonalizationEditor
from easyedit_personal.errors import ConfigError, ModelError, RegistryError
from easyedit_personal.hparams import PersonalizationHyperParams, shipped_yaml
from easyedit_personal.settings.resolve import origin, resolve_settings, settings_named, settings_text
from tests.tiny import tiny_model, tiny_tokenizer


def model_folder(path: Path, family: str = "llama", **changes) -> str:
    """A folder with a tiny model's files."""
    tiny_model(family, **changes).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    return model_folder(tmp_path / "mine")


def written(path: Path, **values) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_a_known_name_has_its_own_file_which_needs_no_model():
    settings = resolve_settings("smollm2")
    assert settings == PersonalizationHyperParams.from_hparams("smollm2")
    assert settings.model_name == "smollm2"


def test_a_bare_folder_gets_settings_for_its_depth_and_says_so(folder):
    settings = resolve_settings(folder)
    assert settings.model_name == folder and settings.layers == [3]
    assert origin(settings) == (
        f"Settings derived from smollm2.yaml for {folder} (llama, 4 layers); not measured on this model."
    )


@pytest.mark.parametrize("family", ["gpt2", "gptj", "olmo2", "qwen3"])
def test_a_bare_folder_of_any_family_can_be_edited(family, tmp_path):
    settings = resolve_settings(model_folder(tmp_path / "m", family), kernel="rome")
    settings = settings.replace(v_num_grad_steps=1, health={"on_unhealthy": "ignore"})
    editor = PersonalizationEditor.from_hparams(settings)
    editor.edit("What's my hobby?", "hiking", subject="hobby", verbose=False)
    assert editor.results[0].deltas


def test_a_hub_id_with_shipped_settings_takes_them_without_asking_the_hub():
    hub_id = str(PersonalizationHyperParams.from_hparams("llama3-8b").model_name)
    settings = resolve_settings(hub_id, device="cpu")
    assert settings == PersonalizationHyperParams.from_hparams("llama3-8b").replace(device="cpu")


def test_a_folder_called_like_a_shipped_models_hub_id_takes_its_settings_if_it_is_alike(tmp_path):
    name = str(PersonalizationHyperParams.from_hparams("llama3-8b").model_name).rpartition("/")[2]
    same = model_folder(tmp_path / name, num_hidden_layers=32)
    settings = resolve_settings(same, device="cpu")
    assert settings.model_name == same
    assert settings.per_kernel == PersonalizationHyperParams.from_hparams("llama3-8b").per_kernel
    other = resolve_settings(model_folder(tmp_path / "shallow" / name))
    assert other.made_for.n_layers == 4


def test_a_pair_gets_derived_settings(llama):
    pair = (llama, tiny_tokenizer())
    settings = resolve_settings(pair)
    assert settings.model_name is pair and settings.layers == [3]


def test_files_keep_their_own_model_unless_another_is_named(tmp_path, folder):
    path = written(tmp_path / "a.yaml", model_name=folder, layers=[1])
    assert resolve_settings(hparams=path).model_name == folder
    path = written(tmp_path / "b.yaml", layers=[1])
    assert resolve_settings(folder, path).model_name == folder


def test_kernel_and_device_win_over_the_file(tmp_path, folder):
    path = written(tmp_path / "a.yaml", model_name=folder, layers=[1], per_kernel={"rome": {"layers": [0]}})
    settings = resolve_settings(hparams=path, kernel="rome", device="cpu:0")
    assert (settings.kernel, settings.layers, settings.device) == ("rome", [0], "cpu:0")
    with pytest.raises(RegistryError, match="lowrank"):
        resolve_settings(folder, kernel="lowrnk")
    for device in ("cuad", "7"):
        with pytest.raises(ModelError, match=device):
            resolve_settings(folder, device=device)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"layers": [1, 4]}, "layers: layer 4, but the model's last is 3"),
        ({"layers": [1], "per_kernel": {"rome": {"layers": [9]}}}, "per_kernel.rome.layers: layer 9"),
        ({"layers": [1], "made_for": {"family": "gpt2", "n_layers": 4}}, "family gpt2, this model is a llama"),
        ({"layers": [1], "made_for": {"family": "llama", "n_layers": 32}}, "32 layers, this model has 4"),
        ({"layers": [1], "model_name": "some/other"}, "they name the model 'some/other'"),
    ],
)
def test_a_file_for_another_model_is_refused(values, says, tmp_path, folder):
    with pytest.raises(ConfigError, match=says) as caught:
        resolve_settings(folder, written(tmp_path / "a.yaml", **values))
    assert folder in str(caught.value) and f"models settings {folder}" in str(caught.value)


def test_layers_are_held_against_the_files_own_model_too(tmp_path, folder):
    with pytest.raises(ConfigError, match="layer 4"):
        resolve_settings(hparams=written(tmp_path / "a.yaml", model_name=folder, layers=[4]))
    with pytest.raises(ConfigError, match="layer 30"):
        resolve_settings(hparams=written(tmp_path / "b.yaml", model_name="smollm2", layers=[30]))


def test_a_shipped_file_for_another_shipped_model_is_refused():
    with pytest.raises(ConfigError, match="32 layers, this model has 30"):
        resolve_settings("smollm2", "llama3-8b")


def test_a_moved_model_may_keep_the_file_that_says_what_it_was_made_for(tmp_path, folder):
    made = {"family": "llama", "n_layers": 4}
    path = written(tmp_path / "a.yaml", model_name="/old/place", layers=[1], made_for=made)
    assert resolve_settings(folder, path).model_name == folder


def test_derived_settings_written_out_are_the_same_settings(tmp_path, folder):
    path = tmp_path / "mine.yaml"
    path.write_text(settings_text(folder))
    assert resolve_settings(hparams=str(path)) == resolve_settings(folder)
    assert settings_text("llama3-8b") == shipped_yaml()["llama3-8b"].read_text()


def test_one_name_may_be_a_files_or_a_models(tmp_path, folder):
    assert settings_named("smollm2") == resolve_settings("smollm2")
    assert settings_named(folder) == resolve_settings(folder)
    path = written(tmp_path / "a.yaml", model_name=folder, layers=[2])
    assert settings_named(path).layers == [2]
    assert settings_named("hparams/PersonalizationEditor/smollm2").model_name == "smollm2"
    with pytest.raises(ModelError, match="some/model"):
        settings_named("some/model")
    with pytest.raises(ConfigError, match="'smollm2'"):
        settings_named("smolm2")


def test_a_misspelt_model_has_its_nearest_match():
    with pytest.raises(ModelError, match="Did you mean 'smollm2'"):
        resolve_settings("smolm2")
