"""The bench of EasyEdit's editors: fair, resumable sweeps, the table's folders, and what is said of the paper's order.

Without EasyEdit: an editor that does nothing stands in for the host's, and the tests' small model for a real one.
"""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import yaml

from benchmarks.easyedit import editors, figures, log, sweep, table
from benchmarks.easyedit.__main__ import main
from benchmarks.sweep import GAINS, LEAKS
from easyedit_personal.baselines.find import check_method
from easyedit_personal.errors import HostError
from tests.tiny_model import FOLDER, SETTINGS

SMALL = ("--model", str(FOLDER), "--hparams", str(SETTINGS))


def test_every_editor_has_a_grid_and_is_a_method_of_the_evaluation():
    assert set(editors.grids()) == set(editors.EDITORS)
    for name in editors.EDITORS:
        assert check_method(f"easyedit:{name}")
        trials = sweep.trials_of(name)
        assert trials == sweep.trials_of(name) and 1 < len(trials) <= sweep.MOST
        assert len({json.dumps(one, sort_keys=True) for one in trials}) == len(trials)


def test_the_score_is_what_is_reached_minus_what_is_broken():
    perfect = {**dict.fromkeys(GAINS, 100.0), **dict.fromkeys(LEAKS, 0.0), "facts": 100.0}
    assert sweep.score(perfect) == 100.0
    assert sweep.score({**perfect, **dict.fromkeys(LEAKS, 100.0), "facts": 0.0}) == 0.0


@pytest.fixture
def idle(monkeypatch):
    """Editors that change nothing, of which one cannot be had; they tell how often each edited."""
    seen = []

    def editor_of(name, settings):
        if name == "WISE":
            raise HostError("no WISE here")

        @contextmanager
        def edit(model, tokenizer, requests, hparams):
            seen.append((name, settings, len(requests)))
            yield model, 7

        return edit

    monkeypatch.setattr(sweep, "editor_of", editor_of)
    return seen


def test_a_sweep_takes_turns_goes_on_where_it_stopped_and_chooses(idle, tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    words = ["sweep", *SMALL, "--methods", "FT-M,ROME,WISE", "--users", "1", "--log", str(path), "--trials"]
    assert main([*words, "1"]) == 0
    assert [(name, count) for name, _, count in idle] == [("FT-M", 9), ("ROME", 1)]
    with path.open("a") as file:
        file.write('{"method": "FT-M", "torn')
    assert main([*words, "2"]) == 0
    assert [name for name, _, _ in idle] == ["FT-M", "ROME"] * 2
    rows = log.rows_of(path)
    assert [row["settings"] for row in rows if row["method"] == "FT-M"] == sweep.trials_of("FT-M")[:2]
    assert all("no WISE here" in row["error"] for row in rows if row["method"] == "WISE")
    monkeypatch.setattr(sweep, "CHOSEN", tmp_path / "chosen.yaml")
    assert main(["choose", "--log", str(path)]) == 0
    chosen = yaml.safe_load((tmp_path / "chosen.yaml").read_text())
    assert set(chosen) == {"FT-M", "ROME"} and chosen["FT-M"] in sweep.trials_of("FT-M")


def test_the_table_has_a_folder_per_protocol_and_size_and_is_not_made_twice(tmp_path, capsys, monkeypatch):
    words = ["table", *SMALL, "--methods", "zero_shot,in_prompt", "--users", "2", "--clusters", "2,1"]
    words += ["--evaluators", "direct,implicit,helpful,locality,application", "--out", str(tmp_path)]
    assert main(words) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"natural-2", "natural-1", "paper-2", "paper-1"}
    first = (tmp_path / "table-natural.md").read_text()
    assert "| users | 2 | 2 | 2 | 2 |" in first and "in_prompt, clusters of 2" in first
    assert (tmp_path / "report-natural" / "use.png").is_file()
    monkeypatch.setattr("easyedit_personal.evaluate.run.Runner.group", None)  # nothing is left to do
    assert main(words) == 0
    assert (tmp_path / "table-natural.md").read_text() == first


def test_the_hosts_editors_are_told_from_our_kernels_of_the_same_name():
    assert table.methods_of(type("Options", (), {"methods": ["rome", "ROME"]})()) == ["rome", "easyedit:ROME"]


def test_figures_are_drawn_beside_the_papers(tmp_path, capsys):
    words = ["figures", *SMALL, "--methods", "zero_shot,in_prompt", "--users", "2", "--clusters", "1,2"]
    assert main([*words, "--turns", "0,2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "accuracy: 0 of 0 pairs" in said and "in_prompt: world quiz" in said
    assert (tmp_path / "paper.png").read_bytes().startswith(b"\x89PNG")


def test_pairs_of_methods_are_held_against_the_papers_order():
    paper = {"a": [90, 80], "b": [10, 80], "c": [50, 50]}
    assert figures.agreement(paper, paper).startswith("5 of 5 pairs")
    said = figures.agreement(paper, {"a": [5, None], "b": [50, 60]})
    assert said.startswith("0 of 1 pairs") and "a and b at place 1" in said
