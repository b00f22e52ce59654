"""The health guard: all three figures, the clean model as the measure of a row of edits, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.editing import health_check as guard
from easyedit_personal.editing.editor import PersonalizationEditor
from easyedit_personal.editing.health_check import HealthBaseline, check_health, over_limits
from easyedit_personal.errors import HealthError
from easyedit_personal.hparams import HealthParams
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.types import WeightDelta
from tests.editing.test_editor import settings

LOOSE = {"max_perplexity_ratio": 1e9, "max_relative_norm": 1e9, "min_natural_stops": 0.0}
LAYER = "model.layers.2.mlp.down_proj"


def test_every_figure_has_its_limit_and_nan_is_never_right():
    limits = HealthParams(max_perplexity_ratio=1.5, max_relative_norm=2.0, min_natural_stops=0.7)
    well = {"perplexity_ratio": 1.5, "relative_norm": 2.0, "natural_stops": 0.7}
    assert over_limits(well, limits) == [] and over_limits({}, limits) == []
    for name, value in (("perplexity_ratio", 1.6), ("relative_norm", 2.1), ("natural_stops", 0.6)):
        for bad in (value, float("nan")):
            (fault,) = over_limits({**well, name: bad}, limits)
            assert fault.startswith(name)


@pytest.fixture
def stops(monkeypatch):
    """Natural stops as the test wants them, one per call."""
    values = []
    monkeypatch.setattr(guard, "natural_stops", lambda *_: values.pop(0))
    return values


def check(llama, tokenizer, clean=None, **limits):
    hparams = settings(llama, tokenizer, health={"on_unhealthy": "refuse", **LOOSE, **limits})
    d_out, d_in = llama.get_submodule(LAYER).weight.shape
    update = WeightDelta(LAYER, torch.zeros(d_out, 1), torch.zeros(1, d_in))
    return check_health(llama, tokenizer, [update], hparams, clean)


def test_answers_must_end_where_the_clean_model_ends_them(llama, tokenizer, stops):
    stops += [0.5, 1.0]
    with pytest.raises(HealthError, match=r"natural_stops is 0\.5, below the limit of 0\.7"):
        check(llama, tokenizer, min_natural_stops=0.7)
    stops += [0.5, 0.5]
    assert check(llama, tokenizer, min_natural_stops=0.7)["natural_stops"] == 1.0
    stops += [0.0, 0.0]  # a model that never stops by itself
    assert check(llama, tokenizer, min_natural_stops=0.7)["natural_stops"] == 1.0
    stops += [0.9]
    assert check(llama, tokenizer, min_natural_stops=0.7)["natural_stops"] == 0.9
    stops += [0.5]
    with pytest.raises(HealthError, match="natural_stops"):
        check(llama, tokenizer, HealthBaseline(1.0, 1.0), min_natural_stops=0.7)


def test_a_row_of_edits_is_held_against_the_model_before_the_first(llama, tokenizer, monkeypatch):
    """Each step passes against the last one; together they do not."""
    clean, bases, ratios = guard.perplexity(llama, tokenizer), [], [1.2, 1.4, 1.6]
    monkeypatch.setattr(guard, "perplexity_ratio", lambda *args: bases.append(args[3]) or ratios.pop(0))
    limits = {**LOOSE, "on_unhealthy": "refuse", "max_perplexity_ratio": 1.5}
    values = {"kernel": "finetune", "finetune": {"lr": 0.004, "steps": 2}, "health": limits}
    editor = PersonalizationEditor.from_hparams(settings(llama, tokenizer, **values))
    for subject in ("hobby", "pet"):
        editor.edit(f"What's my {subject}?", "hiking", sequential_edit=True)
    kept = weights_digest(editor.model)
    with pytest.raises(HealthError, match=r"perplexity_ratio is 1\.6"):
        editor.edit("What's my job?", "baker", sequential_edit=True)
    assert weights_digest(editor.model) == kept, "what was refused has left nothing"
    assert bases == [clean] * 3
