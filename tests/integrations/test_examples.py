"""The example for EasyEdit's users runs, and differs from their script in three lines only."""

from __future__ import annotations

import difflib

import pytest

from tests.hosts import REPOSITORY, run_python
from tests.tiny import tiny_model, tiny_tokenizer

FOLDER = REPOSITORY / "examples" / "easyedit"


def lines(name):
    """The script's statements, without docstring, blank lines, comments and plain imports."""
    text = (FOLDER / name).read_text(encoding="utf-8").partition('"""\n')[2]
    return [line for line in text.splitlines() if line and not line.startswith(("#", "import "))]


def test_three_lines_change():
    changes = [line for line in difflib.ndiff(lines("before.py"), lines("after.py")) if line[0] in "-+"]
    assert [line[0] for line in changes].count("+") == 3
    shown = (REPOSITORY / "docs" / "easyedit.md").read_text(encoding="utf-8")
    assert all(f"{line[0]}{line[2:]}\n" in shown for line in changes)


@pytest.mark.easyedit
def test_the_script_runs(host, tmp_path):
    folder = tmp_path / "llama-tiny"
    model = tiny_model("llama", num_hidden_layers=32)  # as deep as the model that the YAML file is for
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    code = f"import runpy, sys; sys.argv = ['after.py', {str(folder)!r}]; runpy.run_path({str(FOLDER / 'after.py')!r})"
    (tmp_path / "work").mkdir()
    said = run_python(
        code, tmp_path / "work", EASYEDIT_HOME=str(host.location.home), EASYEDIT_LOGS=str(tmp_path / "files")
    )
    assert "PersonalizationEditor is registered" in said
    assert "'rewrite_acc'" in said and "'implicit_acc'" in said and "'unrelated_acc'" in said
    assert (tmp_path / "files" / "logs" / "results.json").is_file()
    assert not list((tmp_path / "work").iterdir())
