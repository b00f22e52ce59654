"""Health without running the unedited part again: the figures are those of the edited model itself."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.editing import health
from easyedit_personal.editing import health_reading as module
from easyedit_personal.editing.health import HealthBaseline, answered, perplexity
from easyedit_personal.editing.health_figures import health_figures
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.apply import in_weights, twin_of
from easyedit_personal.modeling.layout import find_layout, get_module, matrix_shape, weights_digest
from easyedit_personal.modeling.suffix import Suffix
from easyedit_personal.types import WeightDelta
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

HPARAMS = PersonalizationHyperParams()


def loud(model, path, seed, size=2.0):
    torch.manual_seed(seed)
    d_out, d_in = matrix_shape(get_module(model, path), path)
    return WeightDelta(path, torch.randn(d_out, 2) * size, torch.randn(2, d_in) * 0.1)


def plainly(model, tokenizer, deltas):
    """The figures by running the edited model."""
    before = HealthBaseline.of(model, tokenizer)
    with in_weights(model, deltas):
        after, rows = perplexity(model, tokenizer), answered(model, tokenizer, before.rows)
    return {
        "perplexity_ratio": after / before.perplexity,
        "natural_stops": before.natural_stops(model, tokenizer, rows),
        "surprise": before.surprise(model, tokenizer, rows),
    }


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_figures_are_those_of_the_edited_model(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    layout, before = find_layout(model), weights_digest(model)
    low, high = layout.rewrite_path(1), layout.rewrite_path(3)
    users = [[loud(model, low, 0)], [loud(model, high, 1), loud(model, low, 2)], [], [loud(model, low, 3, 1e-6)]]
    found = health_figures(model, tokenizer, users, HPARAMS)
    assert weights_digest(model) == before and not any(module._forward_hooks for module in model.modules())
    for figures, deltas in zip(found, users):
        wanted = plainly(model, tokenizer, deltas)
        assert {name: figures[name] for name in wanted} == pytest.approx(wanted, rel=2e-3, abs=2e-3)
    assert found[2]["perplexity_ratio"] == pytest.approx(1) and found[2]["surprise"] == 0
    assert found[0]["surprise"] != found[1]["surprise"], "the updates are loud enough to tell"


def test_updates_of_other_matrices_count_too(llama, tokenizer):
    elsewhere = loud(llama, "model.layers.2.self_attn.o_proj", 0)
    deltas = [elsewhere, loud(llama, "model.layers.2.mlp.down_proj", 1)]
    (found,) = health_figures(llama, tokenizer, [deltas], HPARAMS)
    wanted = plainly(llama, tokenizer, deltas)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_updates_of_an_mlp_s_matrices_are_asked_without_reading_the_model_again(family, monkeypatch):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    block = "transformer.h.{}.mlp." if family == "gpt2" else "model.layers.{}.mlp."
    names = ("c_fc", "c_proj") if family == "gpt2" else ("gate_proj", "up_proj", "down_proj")
    users = [[loud(model, block.format(3) + name, seed + i) for i, name in enumerate(names)] for seed in (0, 5)]
    users.append([*users[0][:1], *users[1], loud(model, block.format(1) + names[0], 9)])
    health_figures(model, tokenizer, users, HPARAMS)
    monkeypatch.setattr(module.Reading, "_read", None)  # once for the last layer, once for both
    found = health_figures(model, tokenizer, users, HPARAMS)
    for figures, deltas in zip(found, users):
        wanted = plainly(model, tokenizer, deltas)
        assert {name: figures[name] for name in wanted} == pytest.approx(wanted, rel=2e-3, abs=2e-3)
    assert found[0]["surprise"] != found[1]["surprise"], "the updates are loud enough to tell"


def test_another_process_reads_what_is_kept_of_the_base_model_and_runs_it_no_more(tokenizer, tmp_path, monkeypatch):
    model, natural = tiny_model("llama"), {"through": "neurons"}
    hparams = PersonalizationHyperParams(layers=[3], answers="natural", natural=natural, stats_dir=str(tmp_path))
    deltas = [loud(model, f"model.layers.3.mlp.{name}", 1) for name in ("gate_proj", "up_proj", "down_proj")]
    memories = (health._BASELINES, module._READINGS)

    def asked(of=model, **more):
        for memory in memories:
            memory.clear()
        return health_figures(of, tokenizer, [deltas], hparams, **more)

    first = asked()
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name.split("-")[0] for file in folder.glob("*.safetensors")) == ["health", "read"]
    before = sorted(file.name for file in tmp_path.rglob("*"))
    with in_weights(
        twin_of(model, ["model.layers.3.mlp.down_proj"]), [loud(model, "model.layers.3.mlp.down_proj", 2)]
    ) as mine:
        assert asked(mine, clean=model) != first
    assert sorted(file.name for file in tmp_path.rglob("*")) == before  # nothing of an edited model is kept
    monkeypatch.setattr(Suffix, "_capture", None)
    monkeypatch.setattr(health, "continuations", None)
    monkeypatch.setattr(health, "perplexity", None)
    assert asked() == first
    monkeypatch.undo()
    for memory in memories:
        memory.clear()


def test_what_was_read_for_one_model_serves_its_twin_and_keeps_neither_alive(llama, tokenizer):
    path = "model.layers.2.mlp.down_proj"
    deltas = [loud(llama, path, 0)]
    (first,) = health_figures(llama, tokenizer, [deltas], HPARAMS)
    twin = twin_of(llama, [path])
    with in_weights(llama, [loud(llama, path, 7)]):  # meanwhile the first model is somebody's
        (second,) = health_figures(twin, tokenizer, [deltas], HPARAMS)
    assert first == second
