"""Hyper-parameters: all faults at once, and YAML files that fit the architectures they are named after."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from pydantic import Field

from easyedit_personal.errors import ConfigError
from easyedit_personal.hparams import PersonalizationHyperParams, find_yaml, shipped_yaml
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.neurons import edited_paths
from easyedit_personal.modeling.layout import find_layout, is_transposed
from easyedit_personal.registry import KERNELS
from easyedit_personal.types import EditRequest
from easyedit_personal.validation import Section
from tests.tiny import FAMILIES, tiny_model

FOLDER = Path(__file__).resolve().parents[1] / "hparams" / "PersonalizationEditor"

# YAML file -> (architecture, the real model's number of layers, down projection as transformers names it, Conv1D?)
ARCHITECTURES = {
    "smollm2": ("llama", 30, "model.layers.{}.mlp.down_proj", False),
    "smollm2-linear": ("llama", 30, "model.layers.{}.mlp.down_proj", False),
    "gemma3-270m": ("gemma3", 18, "model.layers.{}.mlp.down_proj", False),
    "gpt2": ("gpt2", 12, "transformer.h.{}.mlp.c_proj", True),
    "gpt2-xl": ("gpt2", 48, "transformer.h.{}.mlp.c_proj", True),
    "gpt-j-6b": ("gptj", 28, "transformer.h.{}.mlp.fc_out", False),
    "llama3-8b": ("llama", 32, "model.layers.{}.mlp.down_proj", False),
    "llama3.1-8b": ("llama", 32, "model.layers.{}.mlp.down_proj", False),
    "llama3.2-1b": ("llama", 16, "model.layers.{}.mlp.down_proj", False),
    "mistral-7b": ("mistral", 32, "model.layers.{}.mlp.down_proj", False),
    "qwen2.5-7b": ("qwen2", 28, "model.layers.{}.mlp.down_proj", False),
    "qwen3-8b": ("qwen3", 36, "model.layers.{}.mlp.down_proj", False),
    "olmo2-7b": ("olmo2", 32, "model.layers.{}.mlp.down_proj", False),
    "deepseek-qwen-7b": ("qwen2", 28, "model.layers.{}.mlp.down_proj", False),
    "gemma2-9b": ("gemma2", 42, "model.layers.{}.mlp.down_proj", False),
}


# As little of everything as there can be.
FEW = {"contrasts": 16, "ordinary": 4, "answer_tokens": 2, "gate_steps": 2, "value_steps": 2}


def test_every_yaml_is_covered_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("few_questions")
def test_yaml_fits_its_architecture(name, tokenizer):
    family, n_layers, template, conv1d = ARCHITECTURES[name]
    depth = "n_layer" if family in ("gpt2", "gptj") else "num_hidden_layers"
    model = tiny_model(family, **{depth: n_layers})
    hparams = PersonalizationHyperParams.from_hparams(FOLDER / f"{name}.yaml")
    request = [EditRequest("What's my hobby?", "hiking", "hobby", cluster="a")]
    for kernel in ("rome", "memit", "lowrank", "finetune"):
        settings = hparams.with_kernel(kernel).replace(mom2_adjustment=False, v_num_grad_steps=2, prompt_format="auto")
        settings = settings.replace(
            lowrank={"steps": 2}, finetune={"steps": 2}, preserve={"neutral": 2, "answer_tokens": 2}, natural=FEW
        )
        layout = find_layout(model, settings)
        assert layout.n_layers == n_layers and layout.rewrite == template
        assert is_transposed(model.get_submodule(layout.rewrite_path(0))) == conv1d
        deltas = KERNELS.get(kernel)(model, tokenizer, request, settings)
        paths = edited_paths(layout, settings) if kernel == "lowrank" else map(layout.rewrite_path, settings.layers)
        assert {delta.layer for delta in deltas} <= {*paths}
        inputs = torch.arange(5)[None]
        with torch.no_grad():
            before = model(inputs).logits
            with in_weights(model, deltas):
                assert not torch.equal(model(inputs).logits, before)


def test_each_yaml_opens_with_what_it_is_needs_and_how_to_run_it():
    for path in FOLDER.glob("*.yaml"):
        head = path.read_text()[:900]
        assert head.startswith("# ") and "# Needs:" in head and "# Run:" in head, path.name


def test_all_faults_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        PersonalizationHyperParams(kernel="romee", v_lrr=1, v_lr="1e-3", layers=[3, 3], lowrank={"rnk": 2})
    message = str(caught.value)
    for part in ("'rome'?", "'v_lr'?", "1.0e-3", "distinct", "'rank'?"):
        assert part in message


def test_per_kernel_settings_are_checked_and_applied():
    hparams = PersonalizationHyperParams(layers=[2], per_kernel={"rome": {"layers": [1], "v_lr": 0.1}})
    assert (hparams.with_kernel("rome").layers, hparams.with_kernel("memit").layers) == ([1], [2])
    with pytest.raises(ConfigError, match=r"rome\.v_lrr.*v_lr"):
        PersonalizationHyperParams(per_kernel={"rome": {"v_lrr": 1}})


class NudgeParams(Section):
    """Settings of a kernel that does not ship."""

    rank: int = Field(1, ge=1)


@pytest.fixture
def nudge():
    """A kernel from outside, with settings, as long as the test runs."""
    KERNELS.register("nudge", settings=NudgeParams)(lambda model, tokenizer, requests, hparams: [])
    yield "nudge"
    KERNELS.unregister("nudge")


def test_the_section_of_an_added_kernel_is_checked_with_the_rest(nudge):
    with pytest.raises(ConfigError) as caught:
        PersonalizationHyperParams(nudge={"rnk": 1}, v_lrr=1, phrase_sources={"lexicon": {}}, evaluators={"drct": {}})
    message = str(caught.value)
    for part in ("nudge.rnk: unknown key. Did you mean 'rank'?", "'v_lr'?", "lexicon: this source of", "'direct'?"):
        assert part in message
    with pytest.raises(ConfigError, match=r"rome.nudge.rank: .* greater than or equal to 1, got 0"):
        PersonalizationHyperParams(per_kernel={"rome": {"nudge": {"rank": 0}}})


def test_the_section_of_an_added_kernel_goes_wherever_settings_go(nudge):
    hparams = PersonalizationHyperParams(per_kernel={"nudge": {"nudge": {"rank": 3}}}).with_kernel("nudge")
    copies = [
        hparams.replace(seed=1),
        pickle.loads(pickle.dumps(hparams)),
        PersonalizationHyperParams(**hparams.to_dict()),
    ]
    for known in (hparams, *copies):
        assert known.settings_of(KERNELS, "nudge").rank == 3
    assert copies[1] == hparams != hparams.replace(nudge={"rank": 4})
    assert PersonalizationHyperParams().settings_of(KERNELS, "nudge") == NudgeParams()
    assert PersonalizationHyperParams().settings_of(KERNELS, "rome") is None


def test_without_its_kernel_a_section_is_an_unknown_key():
    with pytest.raises(ConfigError, match="nudge: unknown key"):
        PersonalizationHyperParams(nudge={"rank": 3})


def test_replace_merges_groups_and_validates():
    hparams = PersonalizationHyperParams(lowrank={"rank": 2, "steps": 7})
    changed = hparams.replace(lowrank={"rank": 3})
    assert (changed.lowrank.rank, changed.lowrank.steps, hparams.lowrank.rank) == (3, 7, 2)
    with pytest.raises(ConfigError):
        hparams.replace(lowrank={"rank": 0})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- 1\n", "no YAML mapping"),
        ("v_lr: 1.0\nv_lr: 2.0\n", "duplicate"),
        ("a: [1\n", "cannot be read"),
        ("a: !!python/object/apply:os.getcwd []\n", "cannot be read"),
        ("kernel: romee\n", "rome"),
    ],
)
def test_bad_yaml_is_refused_with_its_path(tmp_path, text, part):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part) as caught:
        PersonalizationHyperParams.from_hparams(path)
    assert "bad.yaml" in str(caught.value)


def test_yaml_is_found_by_path_name_and_easyedits_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "llama3-8b",
        "hparams/PersonalizationEditor/llama3-8b.yaml",
        "hparams/PersonalizationEditor/llama3-8b",
    ):
        assert find_yaml(name) == shipped_yaml()["llama3-8b"]
    with pytest.raises(ConfigError, match="llama3-8b"):
        find_yaml("llama3-8B-instruct")


def test_tiny_families_cover_every_yaml():
    assert {family for family, *_ in ARCHITECTURES.values()} <= FAMILIES.keys()
