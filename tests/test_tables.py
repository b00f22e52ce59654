"""The tables of committed results: users' names stay out, every share carries its interval."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.tables import by_turns, main, markdown, read
from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.errors import DataError
from easyedit_personal.evaluate import Plan
from easyedit_personal.evaluate.columns import describe
from easyedit_personal.evaluate.evaluator import find_evaluators
from easyedit_personal.evaluate.result_folder import ResultFolder

PLAN = Plan(["direct", "health", "cost"], turns=[0, 2])


@pytest.fixture
def folder(tmp_path):
    """A result folder with one method that worked, with turns, and one that failed."""
    share = {"mean": 0.25, "n": 4, "ci95": [0.05, 0.7]}
    turns = {str(n): {"direct": {"mean": 0.5}, "implicit": {"mean": None}, "not_fitting": 2} for n in (0, 2)}
    metrics = {
        "direct": share,
        "health": {"mean": 1.25, "ci95": [1.0, 1.5], "stops": 1.0, "refused": 0.0},
        "cost": {"mean": 1.5, "ci95": [None, None], "bytes": 11264.0, "shared_bytes": 5632.0},
        "multi_turn": {**share, "by_turns": turns},
    }
    cost = {"seconds_per_user": 1.5, "bytes_per_user": 11264.0}
    methods = {
        "lowrank": {"status": "ok", "error": None, "metrics": metrics, "cost": cost},
        "lora": {"status": "failed", "error": "no room", "metrics": {}, "cost": {}},
    }
    setup = {"users": ["ada"], "n": 4, "plan": {"cluster_size": 9}}
    result = {"setup": setup, "columns": describe(find_evaluators(PLAN)), "methods": methods}
    (tmp_path / "result.json").write_text(json.dumps(result))
    return tmp_path


def test_the_table_shows_shares_with_intervals_and_says_what_failed(folder):
    lines = markdown([read(str(folder))]).splitlines()
    assert lines[0] == "|  | lowrank | lora |" and lines[2] == "| users | 4 | 4 |"
    rows = ["direct ↑ | 25 (5-70)", "perplexity ↓ | 1.25 (1.00-1.50)", "stops ↑ | 100", "refused ↓ | 0"]
    rows += ["s ↓ | 1.50", "kB ↓ | 11.3", "shared kB ↓ | 5.6", "after turns ↑ | 25 (5-70)"]
    assert lines[3:-2] == [f"| {row} | - |" for row in rows]
    assert lines[-1] == "Failed: lora: no room"


def test_cluster_sizes_stand_side_by_side(folder):
    one, nine = read(f"{folder}=lowrank"), read(f"{folder}=lowrank")
    one["setup"]["plan"]["cluster_size"] = 1
    head = markdown([one, nine]).splitlines()[0]
    assert head == "|  | lowrank, clusters of 1 | lowrank, clusters of 9 |"


def test_turns_have_a_table_of_their_own_where_they_were_asked(folder):
    assert by_turns([read(str(folder))]).splitlines()[2] == "| lowrank | 9 | 50 / - | 50 / - |"
    result = read(str(folder))
    result["methods"]["lowrank"]["metrics"].pop("multi_turn")
    assert by_turns([result]) == ""


def test_what_is_written_names_no_user(folder, tmp_path, monkeypatch, capsys):
    target = tmp_path / "kept.json"
    monkeypatch.setattr(sys, "argv", ["tables", str(folder), "--json", str(target)])
    main()
    assert "ada" not in target.read_text() and "lowrank" in target.read_text()
    assert "25 (5-70)" in capsys.readouterr().out


def test_a_folder_without_result_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no result\.json"):
        read(str(tmp_path / "elsewhere"))


def test_some_methods_of_a_folder_can_be_taken(folder):
    assert list(read(f"{folder}=lowrank")["methods"]) == ["lowrank"]
    with pytest.raises(DataError, match="no such method"):
        read(f"{folder}=lowrank,rome")


def test_figures_by_kind_come_from_the_kept_answers(folder, monkeypatch, capsys):
    items = UPQADataset.bundled("test").items[:3]
    plan = Plan(["direct"]).describe()
    users = [
        {"user": item.id, "answers": [{"evaluator": "direct", "target": item.target, "text": f"It is {said}."}]}
        for item, said in zip(items, (items[0].target, "nothing", items[2].target))
    ]
    kept = ResultFolder(folder)
    kept.claim({"plan": plan})
    kept.append("lowrank", users)
    monkeypatch.setattr(sys, "argv", ["tables", f"{folder}=lowrank", "--kinds", "bundled"])
    main()
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:4]] for cells in lines}
    for subject in {item.subject for item in items}:
        hits = [item is not items[1] for item in items if item.subject == subject]
        assert rows[subject] == [str(len(hits)), f"{100 * sum(hits) / len(hits):.0f}"]
