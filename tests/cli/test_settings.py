"""One way to settings for every command; what can be wrong without the model is said before the model is loaded."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
import yaml
from typer.testing import CliRunner

from easyedit_personal.cli.main import app, main
from easyedit_personal.cli.serve import _called
from easyedit_personal.errors import ConfigError, ModelError, StoreError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.settings.resolve import resolve_settings
from tests.engines.random_factors import write_users
from tests.tiny import tiny_model, tiny_tokenizer

COMMANDS = ("edit", "chat", "personalize", "serve", "evaluate")


@pytest.fixture
def folder(tmp_path):
    """A bare folder with a tiny Llama of four layers."""
    tiny_model("llama").save_pretrained(tmp_path / "mine")
    tiny_tokenizer().save_pretrained(tmp_path / "mine")
    return str(tmp_path / "mine")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command up to the point where it loads a model; gives the settings for that, or the error before it."""
    asked = []

    def load(hparams):
        asked.append(hparams)
        raise ModelError("Here the command would begin.")

    def run_it(command, *words, store=None):
        asked.clear()
        given = [command, *NEEDS[command], *map(str, words)]
        if command != "evaluate":
            given += ["--store", str(store or tmp_path / "edits.db")]
        result = CliRunner().invoke(app, given)
        return asked[0] if asked else result.exception

    for module in ("modeling.loading", "bulk.bulk", "service.run"):
        monkeypatch.setattr(f"easyedit_personal.{module}.load_model", load)
    monkeypatch.chdir(tmp_path)
    write_users(tmp_path / "users.jsonl", 1)
    return run_it


NEEDS = {
    "edit": ["My hobby is falconry", "--user", "ann"],
    "chat": ["--user", "ann"],
    "personalize": ["--users", "users.jsonl"],
    "serve": ["--port", "0"],
    "evaluate": ["--out", "results", "--size", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_files_own_model_is_loaded_and_one_that_is_named_instead(command, run, folder, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"model_name": folder, "layers": [2]}))
    asked = run(command, "--hparams", path)
    assert asked.model_name == folder and asked.layers == [2]
    path.write_text(yaml.safe_dump({"layers": [1]}))
    asked = run(command, "--hparams", path, "--model", folder)
    assert asked.model_name == folder and asked.layers == [1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bare_folder_is_enough(command, run, folder):
    assert run(command, "--model", folder) == resolve_settings(folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_wrong_is_said_before_the_model_is_loaded(command, run, folder, tmp_path):
    path = tmp_path / "deep.yaml"
    path.write_text(yaml.safe_dump({"layers": [40]}))
    assert isinstance(run(command, "--model", folder, "--hparams", path), ConfigError)
    assert isinstance(run(command, "--model", folder, "--device", "cuad"), ModelError)
    assert isinstance(run(command, "--model", tmp_path / "none"), ModelError)
    if command != "evaluate":
        error = run(command, "--model", folder, store=tmp_path / "no folder" / "edits.db")
        assert isinstance(error, StoreError) and "no folder" in str(error)
        assert isinstance(run(command, "--model", folder, store=tmp_path), StoreError)
        assert "lowrank" in str(run(command, "--model", folder, "--kernel", "lowrnk"))


CALLED = {
    "smollm2": "smollm2",
    "./Qwen2.5-7B/": "Qwen2.5-7B",
    ".": "here",
    "../mine": "mine",
    "org/some-1.5b": "some-1.5b",
    "../models/some-1.5b.Q4_K_M.gguf": "some-1.5b.Q4_K_M",
}


@pytest.mark.parametrize("given", CALLED)
def test_a_served_model_is_called_by_its_own_name(given, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "mine").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    assert _called(given) == CALLED[given]


def test_a_stores_check_leaves_nothing_behind(run, folder, tmp_path):
    assert isinstance(run("edit", "--model", folder), PersonalizationHyperParams)
    assert not list(tmp_path.glob("edits.db*"))


def test_a_damaged_store_is_said_before_the_model_is_loaded(run, folder, tmp_path):
    (tmp_path / "edits.db").write_bytes(b"no database" * 1000)
    assert isinstance(run("chat", "--model", folder), StoreError)


@pytest.mark.parametrize("given", [["--certificate", "none.pem"], ["--key", "none.pem"]])
def test_a_certificate_that_cannot_be_used_is_said_before_the_model_is_loaded(given, run, folder):
    error = run("serve", "--model", folder, *given)
    assert isinstance(error, ConfigError) and "none.pem" in str(error)


def test_one_line_says_that_settings_are_derived_and_which_key_nobody_reads(folder, tmp_path, monkeypatch, capfd):
    path = tmp_path / "a.yaml"
    made = {"family": "llama", "n_layers": 4, "status": "derived", "source": "smollm2.yaml"}
    values = {"model_name": folder, "made_for": made, "layers": [1], "evaluation_type": "LLM-judge"}
    path.write_text(yaml.safe_dump(values))
    words = ["edit", "My hobby is falconry", "-u", "ann", "--dry-run", "--json"]
    words += ["--store", str(tmp_path / "e.db"), "--hparams", str(path)]
    monkeypatch.setattr(sys, "argv", ["easyedit-personal", *words])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("default")
        main()
    said = capfd.readouterr()
    assert ended.value.code == 0 and json.loads(said.out)["target"] == "falconry"
    warning, note = said.err.splitlines()
    assert warning.startswith("Warning: kernel 'lowrank' does not read: evaluation_type")
    assert note.startswith(f"Settings derived from smollm2.yaml for {folder} (llama, 4 layers)")


def test_models_settings_writes_a_file_that_gives_the_same(folder, tmp_path):
    result = CliRunner().invoke(app, ["models", "settings", folder])
    assert result.exit_code == 0, result.output
    path = tmp_path / "mine.yaml"
    path.write_text(result.output)
    assert PersonalizationHyperParams.from_hparams(path) == resolve_settings(folder)
