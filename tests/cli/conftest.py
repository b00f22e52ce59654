"""A tiny random model that learns in half a second, in place of the one that the command line would load."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from easyedit_personal.cli.main import app
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.store import EditStore
from tests.tiny import tiny_model, tiny_tokenizer

# Fine-tuning one matrix: the quickest way to make random weights say a word, and to stop after it.
SETTINGS = {
    "layers": [2],
    "kernel": "finetune",
    "cluster": {"size": 2},
    "preserve": {"weight": 0.0},
    "finetune": {"lr": 0.02, "steps": 100},
    "health": {"on_unhealthy": "warn", "self_test": "warn", "max_perplexity_ratio": 1e9, "max_relative_norm": 1e9},
}


class Desk:
    """A folder with a store, a YAML file and a model to teach.

    Attributes:
        path: the store's file.
        loads: how often a model was loaded.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.loads = folder, folder / "edits.db", 0
        self.model, self.tokenizer = tiny_model("llama"), tiny_tokenizer()
        self.yaml = folder / "quick.yaml"
        self.configure()

    def configure(self, **changes) -> None:
        """Other settings from now on."""
        settings = {**SETTINGS, **changes}
        self.hparams = PersonalizationHyperParams(**settings)
        self.yaml.write_text(yaml.safe_dump(settings))

    def load(self, hparams):
        """In place of ``load_model``."""
        self.loads += 1
        return self.model, self.tokenizer

    def store(self) -> EditStore:
        """The store, opened with the model."""
        return EditStore.open(self.path, self.model, self.tokenizer)

    def run(self, command: str, *words: str, said: str | None = None, fails: int = 0):
        """One command's result; our errors come through as they are."""
        given = [command, *words, "--store", str(self.path), "--hparams", str(self.yaml)]
        result = CliRunner().invoke(app, given, input=said)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == fails, result.output
        return result


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Desk:
    """See ``Desk``."""
    monkeypatch.setenv("COLUMNS", "200")
    made = Desk(tmp_path)
    monkeypatch.setattr("easyedit_personal.modeling.loading.load_model", made.load)
    return made
