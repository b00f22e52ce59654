"""Settings for models that nobody has measured: layers move with the depth, everything else and its reasons stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.derived_settings import derived_files, text_for
from easyedit_personal.files import parse_yaml
from easyedit_personal.hparams import PersonalizationHyperParams, shipped_yaml
from easyedit_personal.settings import derive
from easyedit_personal.settings.derive import derived_text, moved_layers, original_for, originals
from easyedit_personal.settings.facts import ModelFacts

ROOT = Path(__file__).resolve().parents[2]
ODD_NAME = '/models/a "quoted": #name\nlayers: [99]'


def settings_of(text: str) -> PersonalizationHyperParams:
    return PersonalizationHyperParams(**parse_yaml(text))


def test_layers_keep_their_share_of_the_depth():
    assert moved_layers([24], 30, 30) == [24]
    assert moved_layers([24], 30, 60) == [49]
    assert moved_layers([0, 29], 30, 6) == [0, 5]
    assert moved_layers([4, 5, 6], 30, 6) == [0, 1]


@pytest.mark.parametrize(
    "facts", [ModelFacts("llama", 16), ModelFacts("qwen3", 3), ModelFacts("martian", 200)], ids=str
)
def test_only_layers_and_names_differ_from_the_measured_file(facts):
    original = original_for(facts)
    old = PersonalizationHyperParams.from_hparams(original.path)
    new = settings_of(derived_text("/some/folder", facts))
    assert new.model_name == "/some/folder"
    made = new.made_for
    assert (made.family, made.n_layers, made.status) == (facts.family, facts.n_layers, "derived")
    assert made.source == original.path.name
    depth = original.facts.n_layers
    assert new.layers == moved_layers(old.layers, depth, facts.n_layers)
    assert new.per_kernel == {
        kernel: {**some, "layers": moved_layers(some["layers"], depth, facts.n_layers)} if "layers" in some else some
        for kernel, some in old.per_kernel.items()
    }
    same = {"layers": old.layers, "per_kernel": old.per_kernel, "model_name": old.model_name, "made_for": old.made_for}
    assert new.replace(**same) == old


def test_the_text_says_what_it_is_and_why_each_number():
    text = derived_text("/some/folder", ModelFacts("llama", 16))
    head = text.partition("\nalg_name")[0]
    for part in (
        "/some/folder (llama, 16 layers)",
        "# Needs:",
        "# Run:",
        "derived from smollm2.yaml",
        "never measured",
    ):
        assert part in head
    assert "of 30 in smollm2.yaml" in text
    reasons = [line.partition("#")[2] for line in shipped_yaml()["smollm2"].read_text().splitlines() if " # " in line]
    assert reasons and all(reason in text for reason in reasons)


def test_a_models_name_cannot_become_anything_else():
    text = derived_text(ODD_NAME, ModelFacts("llama", 16))
    assert settings_of(text).model_name == ODD_NAME
    assert settings_of(text).layers == settings_of(derived_text("x", ModelFacts("llama", 16))).layers


def test_the_same_family_comes_first_then_the_nearest_depth(monkeypatch):
    path = shipped_yaml()["smollm2"]
    found = [
        derive.Original(name, path, ModelFacts(*facts))
        for name, facts in {"a": ("llama", 30), "b": ("gemma3_text", 18), "c": ("llama", 80)}.items()
    ]
    monkeypatch.setattr(derive, "originals", lambda: found)
    assert original_for(ModelFacts("gemma3_text", 80)).name == "b"
    assert original_for(ModelFacts("llama", 64)).name == "c"
    assert original_for(ModelFacts("olmo2", 16)).name == "b"


def test_smollm2_is_what_others_are_derived_from():
    assert {original.name: original.neurons for original in originals()} == {"smollm2": True, "smollm2-linear": False}
    assert original_for(ModelFacts("qwen3", 3)).name == "smollm2"
    for without_a_gate in ("gpt2", "martian"):
        assert original_for(ModelFacts(without_a_gate, 12)).name == "smollm2-linear"
    assert {"llama3-8b", "qwen3-8b", "gpt2"} <= derived_files().keys()


def test_what_is_said_to_be_measured_has_a_result_file():
    made = [PersonalizationHyperParams.from_hparams(path).made_for for path in shipped_yaml().values()]
    results = [one.source or "" for one in made if one.status == "measured"]
    assert results and all((ROOT / source).is_file() for source in results)


@pytest.mark.parametrize("name", sorted(derived_files()))
def test_shipped_files_of_unmeasured_models_are_what_deriving_gives_today(name):
    assert derived_files()[name].read_text() == text_for(name), "run python -m benchmarks.derived_settings"
