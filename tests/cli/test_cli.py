"""The command line as a newcomer meets it: quick help, the demo's tables, plain errors."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from easyedit_personal import DEFAULT_MODEL
from easyedit_personal.cli import demo
from easyedit_personal.cli.main import app
from easyedit_personal.errors import ModelError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.modeling import prepare

runner = CliRunner()


def test_help_names_the_commands_and_does_not_load_torch():
    code = (
        "import sys\nfrom easyedit_personal.cli.main import app\n"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'matplotlib') if name in sys.modules])\n"
        "app(['--help'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("[]")
    for command in ("demo", "evaluate", "report", "doctor"):
        assert command in out


def test_version():
    from easyedit_personal import __version__

    assert runner.invoke(app, ["--version"]).output.strip() == f"easyedit-personal {__version__}"


def test_demo_shows_before_and_after_sizes_and_a_true_undo(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    few = {"cluster": {"size": 2, "indirect": 2, "behind": 2}, "lowrank": {"steps": 4, "polish": 1}}
    quick = demo._tiny_settings().replace(mom2_n_samples=50, **few)  # what the answers are does not matter here
    monkeypatch.setattr(demo, "_tiny_settings", lambda: quick)
    result = runner.invoke(app, ["demo", "--tiny", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    kinds = ("direct", "paraphrased", "implicit", "product", "negated", "somebody else", "a fact")
    for part in ("Ada", "Ben", "Chloé", *kinds, "kB", "where it does not"):
        assert part in result.output
    assert "bit for bit the original" in result.output
    sizes = {path.stem: path.stat().st_size for path in tmp_path.glob("*.safetensors")}
    assert set(sizes) == {"Ada", "Ben", "Chloé"} and max(sizes.values()) < 100_000


def test_demo_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TINY", tmp_path)
    with pytest.raises(ModelError, match="without its tests"):
        runner.invoke(app, ["demo", "--tiny"], catch_exceptions=False)


@pytest.mark.parametrize("checkout", [True, False])
def test_without_its_model_the_demo_offers_the_tests_model_where_that_is(checkout, tmp_path, monkeypatch):
    def nowhere(name):
        raise ModelError(f"The model {name!r} cannot be had.", remedy="connect once")

    monkeypatch.setattr(prepare, "find_model", nowhere)
    if not checkout:
        monkeypatch.setattr(demo, "TINY", tmp_path)
    with pytest.raises(ModelError, match=r"'smollm2' cannot be had(.|\n)*connect once") as caught:
        runner.invoke(app, ["demo"], catch_exceptions=False)
    assert ("demo --tiny" in str(caught.value)) == checkout


def test_demo_names_the_nearest_kernel():
    done = subprocess.run(
        [sys.executable, "-m", "easyedit_personal.cli.main", "demo", "--kernel", "lowrnk"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Did you mean 'lowrank'" in done.stderr and "Traceback" not in done.stderr


def test_doctor_says_what_is_there_and_what_is_missing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for part in ("torch", "fast edits", "EasyEdit"):
        assert part in result.output


@pytest.mark.parametrize("command", ["demo", "evaluate", "report", "doctor"])
def test_every_command_has_help(command):
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output


def test_without_a_model_or_a_yaml_file_it_is_the_default_one():
    assert PersonalizationHyperParams().model_name == DEFAULT_MODEL
    for command in ("edit", "chat", "evaluate", "personalize", "serve"):
        assert DEFAULT_MODEL in runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output


def test_understand_shows_no_characters_that_a_terminal_obeys():
    shown = runner.invoke(app, ["understand", "my hobby is \x1b[31mred"]).output
    assert "hobby" in shown and "\x1b" not in shown
