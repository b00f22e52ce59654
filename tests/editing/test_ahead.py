"""What is learned ahead is there when the first user comes, and the same call goes on where it was stopped."""

from __future__ import annotations

import pytest

from easyedit_personal.editing import health, health_reading
from easyedit_personal.editing.ahead import learn_ahead
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.errors import ConfigError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import gate, ground
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.types import EditRequest
from tests.tiny import tiny_model, tiny_tokenizer

SMALL = {"contrasts": 24, "ordinary": 6, "answer_tokens": 4, "gate_steps": 2, "value_steps": 2, "gate_rank": 2}


def settings(folder, through="neurons", **changes):
    natural = {**SMALL, "through": through, "value_rank": 2}
    return PersonalizationHyperParams(
        layers=[3],
        answers="natural",
        natural=natural,
        stats_dir=str(folder),
        health={"on_unhealthy": "warn"},
        **changes,
    )


def forget():
    ground._GROUNDS.clear()
    health._BASELINES.clear()
    health_reading._READINGS.clear()


def forbidden(*_, **__):
    raise AssertionError("it was learned already")


@pytest.mark.parametrize("through", ["neurons", "projection"])
def test_an_edit_finds_what_was_learned_ahead(through, tmp_path, few_questions, monkeypatch):
    model, tokenizer, hparams = tiny_model("llama"), tiny_tokenizer(), settings(tmp_path, through)
    before = weights_digest(model)
    health.HealthBaseline.of(model, tokenizer)  # what is in memory already is kept on disk all the same
    done = learn_ahead(model, tokenizer, hparams, ["pastime", "hobby", "lucky charm"])
    assert done.kinds == ("hobby", "lucky charm") and weights_digest(model) == before
    assert len(done.folders) == (2 if through == "neurons" else 1)
    assert done.nbytes == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) > 0
    forget()
    monkeypatch.setattr(gate, "_learn", forbidden)
    monkeypatch.setattr(ground, "compute", forbidden)
    if through == "neurons":
        monkeypatch.setattr(health, "answered", forbidden)
    assert learn_ahead(model, tokenizer, hparams, ["hobby"]).nbytes == done.nbytes
    forget()
    result = personalize(model, tokenizer, [EditRequest("What's my hobby?", "kites", "hobby")], hparams)
    assert result.deltas
    forget()


def test_settings_whose_edits_share_nothing_are_refused_before_any_work(tmp_path):
    for changes in ({"kernel": "rome"}, {"answers": "short"}):
        hparams = settings(tmp_path).replace(**changes)
        with pytest.raises(ConfigError, match="share nothing"):
            learn_ahead(None, None, hparams)
    for name in (" ", "x" * 81, "\ud800"):
        with pytest.raises(ConfigError, match="no name of a kind"):
            learn_ahead(None, None, settings(tmp_path), ["hobby", name])
    assert not list(tmp_path.iterdir())
