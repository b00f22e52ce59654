"""``evaluate --engine``: the same result as a serial run, up to timing; also when a worker dies or a run is resumed."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from easyedit_personal.baselines.base import Session
from easyedit_personal.baselines.find import find_method
from easyedit_personal.engines import Limits, find_engine
from easyedit_personal.errors import ConfigError, DataError
from easyedit_personal.evaluate import Plan, evaluate
from easyedit_personal.evaluate.result_folder import ResultFolder
from easyedit_personal.evaluate.shards import Evaluation, evaluate_with
from tests.evaluate.people import people, quick_hparams
from tests.tiny import tiny_model, tiny_tokenizer

PLAN = Plan(["direct", "locality", "undo", "capability"], turns=[0, 1], max_new_tokens=8)
HPARAMS = quick_hparams(20)


def load():
    """What every worker loads."""
    return tiny_model("llama"), tiny_tokenizer()


class Unlucky:
    """A method that fails, or kills its worker, for users by name."""

    edits = True

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, items, seed):
        """Nothing, or refuses."""
        if self.name == "refuses":
            raise ValueError("not today")

    @contextmanager
    def personalize(self, model, tokenizer, preferences, cluster_size):
        if self.name == "fails" or (self.name == "fails once" and preferences[0].id == "user-pet"):
            raise RuntimeError("out of luck")
        if self.name == "kills" and preferences[0].id == "user-job":
            os.kill(os.getpid(), signal.SIGKILL)
        yield Session(model, nbytes=7)


def find(name):
    """What every worker finds."""
    return Unlucky(name) if name in ("fails", "fails once", "kills", "refuses", "lucky") else find_method(name, HPARAMS)


def work(out: Path, plan: Plan = PLAN) -> Evaluation:
    """The whole evaluation."""
    return Evaluation(load, find, people(), plan, str(out), HPARAMS, "people", "tiny")


def serial(out: Path, methods, plan: Plan = PLAN):
    """The same, as it is done without an engine."""
    found = [find(name) for name in methods]
    return evaluate(*load(), people(), found, plan=plan, out=out, hparams=HPARAMS, data="people", model_name="tiny")


def processes():
    """Two workers."""
    return find_engine("processes", Limits(workers=2, retries=0))


def timeless(result):
    """A result without what no two runs have in common."""
    methods = {name: {**method, "cost": method["cost"]["bytes_per_user"]} for name, method in result["methods"].items()}
    for method in methods.values():
        cost = method["metrics"].pop("cost", None)
        method["bytes"] = cost and cost["bytes"]
    setup = {key: value for key, value in result["setup"].items() if key not in ("hardware", "commit")}
    return {**result, "methods": methods, "setup": setup}


def answers(folder: Path):
    """Everything that was said, without timing."""
    kept = ResultFolder(folder)
    return {
        name: [{**line, "seconds": 0, "asking": 0, "peak_mib": 0} for line in kept.users(name)]
        for name in kept.methods()
    }


METHODS = ["zero_shot", "ft_m", "fails once", "retrieval"]


def test_spread_over_two_processes_it_is_the_same(tmp_path):
    alone = serial(tmp_path / "a", METHODS)
    spread = evaluate_with(processes(), work(tmp_path / "b"), METHODS)
    assert timeless(alone) == timeless(spread) and answers(tmp_path / "a") == answers(tmp_path / "b")
    assert alone["methods"]["ft_m"]["metrics"]["direct"]["n"] == 4
    assert "1 of 4 failed, first user user-pet" in spread["methods"]["fails once"]["error"]
    names = {path.relative_to(tmp_path / "b").as_posix() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert names == {"setup.json", "result.json", *(f"answers/{name}.jsonl" for name in METHODS)}


@pytest.mark.slow
def test_a_protocol_without_restoring_has_one_worker_per_method(tmp_path):
    plan = Plan(["direct", "locality"], protocol="paper", restores=False, max_new_tokens=8)
    alone = serial(tmp_path / "a", ["zero_shot", "ft_m"], plan)
    spread = evaluate_with(processes(), work(tmp_path / "b", plan), ["zero_shot", "ft_m"])
    assert timeless(alone) == timeless(spread) and answers(tmp_path / "a") == answers(tmp_path / "b")


@pytest.mark.slow
def test_what_fails_is_said(tmp_path):
    result = evaluate_with(processes(), work(tmp_path), ["fails", "kills", "refuses", "lucky"])
    errors = {name: method["error"] for name, method in result["methods"].items()}
    assert errors["lucky"] is None and errors["refuses"] == "ValueError: not today"
    assert "of 4 failed, first user user-hobby: RuntimeError: out of luck" in errors["fails"]
    assert "1 of 4 failed, first user user-job: given up after 1 attempts" in errors["kills"]
    assert [line["user"] for line in answers(tmp_path)["kills"]] == ["user-hobby", "user-pet", "user-drink"]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_either_engine(tmp_path):
    whole = serial(tmp_path / "whole", ["lucky"])
    for name, engine in (("spread", True), ("serial", False)):
        out = tmp_path / name
        with work(out).open() as do:  # a worker whose driver dies before it can gather
            shares = list(_shares_of(out))[:2]
            assert [told.faults for told in do(shares)] == [(), ()]
        assert not (out / "answers" / "lucky.jsonl").exists()
        result = evaluate_with(processes(), work(out), ["lucky"]) if engine else serial(out, ["lucky"])
        assert timeless(result) == timeless(whole) and len(answers(out)["lucky"]) == 4
        assert not (out / "shards").exists()


def _shares_of(out: Path):
    from easyedit_personal.evaluate.shards import _shares

    return _shares(work(out), "lucky", ResultFolder(out))


@pytest.mark.slow
def test_what_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No method"):
        evaluate_with(processes(), work(tmp_path), [])
    evaluate_with(processes(), work(tmp_path), ["lucky"])
    other = replace(work(tmp_path), plan=Plan(["direct"], max_new_tokens=9))
    with pytest.raises(DataError, match="another setup"):
        evaluate_with(processes(), other, ["zero_shot"])


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_on_ray_it_is_the_same(ray_home, tmp_path):
    alone = serial(tmp_path / "a", ["zero_shot", "ft_m"])
    spread = evaluate_with(find_engine("ray", Limits(workers=2)), work(tmp_path / "b"), ["zero_shot", "ft_m"])
    assert timeless(alone) == timeless(spread) and answers(tmp_path / "a") == answers(tmp_path / "b")
