"""lm-evaluation-harness on a task of our own, from a local file; refused early where it is not installed."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from easyedit_personal.errors import ConfigError, MissingDependencyError
from easyedit_personal.evaluate import Plan, evaluate
from easyedit_personal.evaluate.harness import check_tasks, run_tasks
from tests.evaluate.people import people, quick_hparams

TASK = """
task: two_choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""


@pytest.fixture
def task(tmp_path):
    """A task of four questions in a local file."""
    rows = [{"question": f"Is {i} even?", "choices": ["yes", "no"], "answer": i % 2} for i in range(4)]
    file = tmp_path / "rows.json"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    path = tmp_path / "two_choices.yaml"
    path.write_text(TASK.format(file=file))
    return str(path)


def test_a_missing_harness_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="lm-evaluation-harness"):
        Plan(harness=["boolq"])
    check_tasks([])


def test_a_missing_task_file_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="no task file"):
        check_tasks([str(tmp_path / "nowhere.yaml")])


needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="the capability extra is not installed")


@pytest.mark.slow
@needs_harness
@pytest.mark.filterwarnings("default")  # the harness and its dependencies warn about each other
def test_the_harness_runs_a_local_task(task, llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    before = run_tasks(llama, tokenizer, [task])
    assert set(before) == {"two_choices"} and before["two_choices"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    plan = Plan(["direct"], harness=[task], max_new_tokens=4)
    result = evaluate(llama, tokenizer, people()[:2], ["ft_m"], plan=plan, hparams=quick_hparams(steps=5))
    harness = result["methods"]["ft_m"]["metrics"]["capability"]["harness"]["two_choices"]
    assert harness["n"] == 1 and harness["before"] == before["two_choices"] and 0 <= harness["mean"] <= 1
    with pytest.raises(ConfigError, match="no task of the harness"):
        broken = tmp_path / "broken.yaml"
        broken.write_text("a: 1")
        run_tasks(llama, tokenizer, [str(broken)])
