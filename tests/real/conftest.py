"""SmolLM2 and one edit of it, made once: ROME at the paper's layer with fewer steps, the quickest edit there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.cli.main import app
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.modeling.loading import load_model

QUICK = {
    "model_name": "smollm2",
    "device": "cpu",
    "kernel": "rome",
    "layers": [5],
    "v_num_grad_steps": 12,
    "v_lr": 0.5,
    "clamp_norm_factor": 4.0,
    "mom2_adjustment": False,
    "cluster": {"size": 1},
    "health": {"on_unhealthy": "ignore"},
}
QUESTION = "What is my hobby?"
FALCONRY = EditRequest(QUESTION, "falconry", "hobby")


@pytest.fixture(scope="session")
def quick() -> PersonalizationHyperParams:
    """Settings of an edit that takes seconds."""
    return PersonalizationHyperParams(**QUICK)


@pytest.fixture(scope="session")
def real(smollm2_folder, quick):
    """The model and its tokenizer; tests leave it as it is."""
    return load_model(quick)


@pytest.fixture(scope="session")
def falconry(real, quick):
    """The factors after which the hobby is falconry."""
    return personalize(*real, [FALCONRY], quick).deltas


@pytest.fixture
def quick_yaml(tmp_path) -> Path:
    """The settings as a file."""
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump({"alg_name": "PersonalizationEditor", **QUICK}))
    return path


@pytest.fixture
def command(smollm2_folder, quick_yaml, monkeypatch):
    """Runs a command with these settings on the real model, which it loads itself; gives what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(name: str, *words: object, said: str | None = None) -> str:
        result = CliRunner().invoke(app, [name, *map(str, words), "--hparams", str(quick_yaml)], input=said)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run
