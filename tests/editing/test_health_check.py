"""The health check: every figure has its limit, a row of edits is held against the clean model, nothing is left."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.editing.editor import PersonalizationEditor
from easyedit_personal.editing.health import HealthBaseline
from easyedit_personal.editing.health_check import check_health, over_limits
from easyedit_personal.errors import HealthError
from easyedit_personal.hparams import HealthParams
from easyedit_personal.kernels.apply import in_weights, twin_of
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.types import WeightDelta
from tests.editing.test_editor import settings

LOOSE = {"max_perplexity_ratio": 1e9, "max_relative_norm": 1e9, "min_natural_stops": 0.0, "max_surprise": 1e9}
LAYER = "model.layers.2.mlp.down_proj"


def test_every_figure_has_its_limit_and_nan_is_never_right():
    limits = HealthParams(max_perplexity_ratio=1.5, max_relative_norm=2.0, min_natural_stops=0.7, max_surprise=1)
    well = {"perplexity_ratio": 1.5, "relative_norm": 2.0, "natural_stops": 0.7, "surprise": 1.0}
    assert over_limits(well, limits) == [] and over_limits({}, limits) == []
    for name, value in (("perplexity_ratio", 1.6), ("relative_norm", 2.1), ("natural_stops", 0.6), ("surprise", 1.1)):
        for bad in (value, float("nan")):
            (fault,) = over_limits({**well, name: bad}, limits)
            assert fault.startswith(name)


UPDATE = WeightDelta(LAYER, torch.zeros(32, 1), torch.zeros(1, 48))


def check(llama, tokenizer, deltas=(UPDATE,), clean=None, **limits):
    hparams = settings(llama, tokenizer, health={"on_unhealthy": "refuse", **LOOSE, **limits})
    return check_health(llama, tokenizer, deltas, hparams, clean)


def test_an_update_of_nothing_is_healthy(llama, tokenizer):
    well = {"perplexity_ratio": 1.0, "relative_norm": 0.0, "natural_stops": 1.0, "surprise": 0.0}
    limits = {"max_perplexity_ratio": 1.01, "max_relative_norm": 0.01, "min_natural_stops": 1.0, "max_surprise": 0.01}
    assert check(llama, tokenizer, **limits) == pytest.approx(well)


def test_a_broken_model_is_refused_and_left_as_it_was(llama, tokenizer):
    torch.manual_seed(0)  # an untrained model is surprised by little
    broken = WeightDelta(LAYER, torch.randn(32, 4) * 20, torch.randn(4, 48))
    before = weights_digest(llama)
    with pytest.raises(HealthError, match=r"surprise is .*, above the limit of 0\.001"):
        check(llama, tokenizer, [broken], max_surprise=0.001)
    assert weights_digest(llama) == before


def test_answers_must_end_where_the_clean_model_ends_them(llama, tokenizer, monkeypatch):
    monkeypatch.setattr(HealthBaseline, "natural_stops", lambda *_: 0.5)
    with pytest.raises(HealthError, match=r"natural_stops is 0\.5, below the limit of 0\.7"):
        check(llama, tokenizer, min_natural_stops=0.7)


def test_an_edit_upon_others_is_held_against_the_model_before_them(llama, tokenizer):
    """Alone the second half passes; with the first, which the model carries, it does not."""
    torch.manual_seed(0)
    half = WeightDelta(LAYER, torch.randn(32, 4) * 4, torch.randn(4, 48))
    clean = twin_of(llama, [LAYER])
    alone = check(llama, tokenizer, [half])
    with in_weights(llama, [half]):
        figures = [check(llama, tokenizer, clean=other) for other in (None, clean)]
    assert figures[0]["surprise"] == 0.0 and figures[0]["perplexity_ratio"] == pytest.approx(1.0)
    for name in ("perplexity_ratio", "surprise", "natural_stops"):
        assert figures[1][name] == pytest.approx(alone[name], rel=1e-4)


def test_a_row_of_edits_is_held_against_the_model_before_the_first(llama, tokenizer, monkeypatch):
    """The editor keeps the clean weights of what it edits, however many edits stay in the model."""
    values = {
        "kernel": "finetune",
        "finetune": {"lr": 0.004, "steps": 2},
        "health": {"on_unhealthy": "refuse", **LOOSE},
    }
    editor = PersonalizationEditor.from_hparams(settings(llama, tokenizer, **values))
    before, held = weights_digest(llama), []

    def looking(model, tokenizer, deltas, hparams, clean):
        held.append((weights_digest(model) == before, clean and weights_digest(clean) == before))
        return check_health(model, tokenizer, deltas, hparams, clean)

    monkeypatch.setattr("easyedit_personal.editing.algorithm.check_health", looking)
    for subject in ("hobby", "pet", "job"):
        editor.edit(f"What's my {subject}?", "hiking", sequential_edit=True)
    assert held == [(True, None), (False, True), (False, True)]
    kept = weights_digest(editor.model)
    editor.hparams = editor.hparams.replace(health={"max_relative_norm": 1e-6})
    with pytest.raises(HealthError, match="relative_norm"):
        editor.edit("What's my name?", "baker", sequential_edit=True)
    assert weights_digest(editor.model) == kept, "what was refused has left nothing"
