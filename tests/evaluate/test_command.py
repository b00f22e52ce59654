"""The evaluate command: what is wrong is refused before the model loads, what is right prints a table and resumes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from easyedit_personal.cli.main import app
from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.errors import PersonalizationError
from easyedit_personal.modeling import loading
from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_model import SETTINGS


class Loads:
    """Stands in for loading a model, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, hparams):
        self.count += 1
        return tiny_model("llama"), tiny_tokenizer()


@pytest.fixture
def loads(monkeypatch):
    """Every model is a tiny one."""
    counter = Loads()
    monkeypatch.setattr(loading, "load_model", counter)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return counter


def run(*words):
    """The command's result; errors of ours come back as exceptions."""
    return CliRunner().invoke(app, ["evaluate", "--hparams", str(SETTINGS), *map(str, words)])


BAD = {
    "unknown method": (["--method", "lowrnk"], "Did you mean 'lowrank'"),
    "no method": (["--method", ","], "No method"),
    "unknown evaluator": (["--evaluators", "+localty"], "Did you mean 'locality'"),
    "too many users": (["--size", "900"], "from 1 to 130"),
    "no users": (["--size", "0"], "from 1 to 130"),
    "too large a cluster": (["--cluster-size", "12"], "from 1 to 9"),
    "no cluster": (["--cluster-size", "0"], "cluster_size is out of range"),
    "turns": (["--turns", "two"], "no list of numbers"),
    "too many turns": (["--turns", "9999"], "not enough distractor turns"),
    "protocol": (["--protocol", "papre"], "no protocol"),
    "no restore": (["--no-restore"], "paper's protocol only"),
    "no such data": (["--data", "nowhere.json"], "cannot be read"),
    "no settings": (["--hparams", "nowhere.yaml"], "There is no hyper-parameter file"),
    "judge without a key": (["--judge", "openai", "--judge-model", "gpt"], "no key"),
    "judge without a model": (["--judge", "http://127.0.0.1:9/v1"], "No model is named"),
    "host editor": (["--method", "easyedit:NOSUCH"], "EasyEdit"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_model_loads(case, loads, tmp_path):
    words, message = BAD[case]
    result = run("--out", tmp_path / "out", *words)
    assert isinstance(result.exception, PersonalizationError), result.output
    assert message in str(result.exception)
    assert loads.count == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("[]", "empty list"), ("[{", "not JSON"), ("MIXED", "one file has one layout")],
)
def test_bad_files_are_refused_before_the_model_loads(content, message, loads, tmp_path):
    if content == "MIXED":
        flat = {
            "input_attribute": "I hike.",
            "attribute_type": "hobby",
            "question": "What's my hobby?",
            "question_paraphrased": "What do I like?",
            "implicit_question": "What now?",
            "product_recommendation_question": "What to buy?",
            "target": "hiking",
        }
        clustered = {**flat, "attribute_type": ["hobby"], "question": ["What's my hobby?"], "target": ["hiking"]}
        content = json.dumps([flat, clustered])
    path = tmp_path / "data.json"
    path.write_text(content)
    result = run("--data", path, "--out", tmp_path / "out")
    assert message in str(result.exception) and loads.count == 0


def test_no_out_folder_is_refused(loads):
    assert "--out DIR" in str(run().exception) and loads.count == 0


def test_a_run_prints_its_table_and_is_not_repeated(loads, tmp_path):
    words = ["--method", "zero_shot,in_prompt", "--size", 2, "--turns", "0,1", "--out", tmp_path / "r"]
    first = run(*words)
    assert first.exit_code == 0, first.output
    for part in ("zero_shot", "in_prompt", "implicit ↑", "leak ↓", "After unrelated turns", "2 users"):
        assert part in first.output
    lines = (tmp_path / "r" / "answers" / "in_prompt.jsonl").read_text()
    assert run(*words).exit_code == 0
    assert (tmp_path / "r" / "answers" / "in_prompt.jsonl").read_text() == lines


def test_a_folder_of_another_setup_is_refused_before_the_model_loads(loads, tmp_path):
    assert run("--method", "zero_shot", "--size", 2, "--out", tmp_path).exit_code == 0
    result = run("--method", "zero_shot", "--size", 3, "--out", tmp_path)
    assert "another setup" in str(result.exception) and "n: 2 there, 3 now" in str(result.exception)
    assert loads.count == 1


def test_every_second_of_the_first_users(loads, tmp_path):
    assert run("--method", "zero_shot", "--size", 5, "--every", 2, "--out", tmp_path).exit_code == 0
    lines = (tmp_path / "answers" / "zero_shot.jsonl").read_text().splitlines()
    asked = [json.loads(line)["user"] for line in lines]
    assert len(asked) == 3 and asked == [item.id for item in UPQADataset.bundled(split="test").items[:5:2]]


def test_rescoring_loads_nothing(loads, tmp_path):
    run("--method", "zero_shot", "--size", 2, "--out", tmp_path)
    before = (tmp_path / "result.json").read_text()
    result = run("--rescore", tmp_path)
    assert result.exit_code == 0 and "zero_shot" in result.output
    assert loads.count == 1 and (tmp_path / "result.json").read_text() == before
    assert "holds no evaluation" in str(run("--rescore", tmp_path / "nowhere").exception)


def test_a_judge_is_asked_about_kept_answers(loads, tmp_path):
    from tests.evaluate.test_judge import running

    run("--method", "zero_shot", "--size", 2, "--out", tmp_path)
    with running() as endpoint:
        result = run("--rescore", tmp_path, "--judge", endpoint.url, "--judge-model", "m")
    assert result.exit_code == 0 and "judge:" in result.output, result.output
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["methods"]["zero_shot"]["metrics"]["direct"]["judge"] == 0.0
    assert stored["scores"]["judge"]["calls"] == len(endpoint.asked) > 0 and loads.count == 1


def test_the_papers_protocol_says_so(loads, tmp_path):
    result = run("--method", "zero_shot", "--size", 2, "--protocol", "paper", "--out", tmp_path)
    assert result.exit_code == 0 and "protocol paper" in result.output
    setup = json.loads((tmp_path / "result.json").read_text())["setup"]
    assert setup["protocol"] == "paper" and setup["plan"]["protocol"]["prompts"] == "raw"
