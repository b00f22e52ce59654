"""SIGINT and SIGKILL at any moment of statistics, edit and evaluate; two processes in one cache folder.

Children come from a fork server that has imported torch before. They say over a pipe what they have done; when they are
stopped after so many messages, they are somewhere in the next piece of work, and nothing that is asserted depends on
where.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyedit_personal.evaluate import Plan, evaluate
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.learning.learner import Learner
from easyedit_personal.learning.session import learn_once
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.store import EditStore
from easyedit_personal.types import Preference
from tests.editing.test_editor import settings
from tests.evaluate.people import people
from tests.evaluate.test_run import Counting
from tests.tiny import LINES, tiny_model, tiny_tokenizer

PLAN = Plan(["direct"], max_new_tokens=4)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.robustness.test_interrupted"])
    return context


def saved_model(folder: Path) -> Any:
    """A tiny model on disk, once; always read from there."""
    from transformers import AutoModelForCausalLM

    if not (folder / "model").is_dir():
        tiny_model("llama").save_pretrained(folder / "model")
    return AutoModelForCausalLM.from_pretrained(folder / "model").eval()


def digest(folder: Path) -> str:
    """Of all files of a folder, with their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def moments(model: Any, folder: Path, number: int) -> torch.Tensor:
    """Second moments of the number-th of three texts, through the cache in a folder."""
    hparams = PersonalizationHyperParams(stats_dir=str(folder), mom2_n_samples=20, layers=[1])
    return second_moments(model, tiny_tokenizer(), [1], hparams, dataset=LINES[number % 3 :])[1]


def statistics(folder: Path, tell: Any) -> None:
    """Compute, delete, compute again: most of the time something is being written."""
    model = saved_model(folder)
    for number in count():
        for path in (folder / "stats").rglob("*.safetensors"):
            path.unlink(missing_ok=True)
        moments(model, folder / "stats", number)
        tell(number)


def check_statistics(folder: Path, told: list[Any]) -> None:
    model = saved_model(folder)
    for path in (folder / "stats").rglob("*.safetensors"):
        assert load_file(path)["second_moment"].isfinite().all()
    for number in range(3):
        torch.testing.assert_close(moments(model, folder / "stats", number), moments(model, folder / "new", number))


def preference(number: int) -> Preference:
    return Preference(f"thing {number}", f"What is my thing {number}?", "abc"[number % 3])


def learner(folder: Path, store: EditStore, model: Any) -> Learner:
    hparams = settings(model, tiny_tokenizer(), finetune={"lr": 0.02, "steps": 2}, health={"on_unhealthy": "ignore"})
    return Learner(model, tiny_tokenizer(), store, hparams)


def edit(folder: Path, tell: Any) -> None:
    """What ``easyedit-personal edit`` does, one preference after the other."""
    model = saved_model(folder)
    with EditStore.open(folder / "edits.db", model, tiny_tokenizer()) as store:
        teacher = learner(folder, store, model)
        for number in count():
            learn_once(teacher, "ann", [preference(number)])
            tell(number)


def check_edit(folder: Path, told: list[Any]) -> None:
    """What was acknowledged is there; at most the one under way is there too; the same command goes on from there."""
    model = saved_model(folder)
    with EditStore.open(folder / "edits.db", model, tiny_tokenizer()) as store:
        assert store.verify() == []
        known = [one.subject for one in store.preferences("ann")]
        expected = [preference(number).subject for number in range(len(told) + 1)]
        assert known in (expected[:-1], expected)
        for number in range(len(told) + 1):
            learn_once(learner(folder, store, model), "ann", [preference(number)])
        assert [one.subject for one in store.preferences("ann")] == expected


def evaluation(folder: Path, tell: Any) -> None:
    """Evaluate into one folder after the other."""
    model = saved_model(folder)
    for number in count():
        evaluate(model, tiny_tokenizer(), people(), [Counting()], plan=PLAN, out=folder / "out" / str(number))
        tell(number)


def check_evaluation(folder: Path, told: list[Any]) -> None:
    """Every folder, also the one under way, can be gone on with, and holds what an undisturbed run holds."""
    model = saved_model(folder)
    whole = evaluate(model, tiny_tokenizer(), people(), [Counting()], plan=PLAN)["methods"]["counting"]["metrics"]
    for out in [*(folder / "out").glob("*"), folder / "out" / "next"]:
        result = evaluate(model, tiny_tokenizer(), people(), [Counting()], plan=PLAN, out=out)
        assert result["methods"]["counting"]["metrics"] == whole


COMMANDS = {
    "statistics": (statistics, check_statistics),
    "edit": (edit, check_edit),
    "evaluate": (evaluation, check_evaluation),
}


def child(command: str, folder: Path, pipe: Any) -> None:
    """Work until stopped; a Ctrl-C ends a child as it ends a command, without a traceback on the tests' screen."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in the background has it ignored
    try:
        pipe.send("ready")
        COMMANDS[command][0](folder, pipe.send)
    except KeyboardInterrupt:
        os._exit(130)


def stopped(processes: Any, command: str, folder: Path, stop: signal.Signals, rng: random.Random) -> list[Any]:
    """Start a command and stop it at some moment; what it had said until then."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=child, args=(command, folder, theirs))
    process.start()
    theirs.close()
    heard = [ours.recv() for _ in range(2 + rng.randrange(3))]
    time.sleep(rng.uniform(0.0, 0.05))  # no condition is waited for: any moment is as good
    while process.is_alive():  # Python drops a Ctrl-C that comes while it frees an object
        os.kill(process.pid, stop)
        process.join(10)
    assert process.exitcode != 0
    while True:
        try:
            heard.append(ours.recv())
        except EOFError:
            return heard[1:]


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
@pytest.mark.parametrize("command", COMMANDS)
def test_stopped_at_any_moment_nothing_is_corrupt_and_the_next_run_goes_on(processes, tmp_path, command, stop, times):
    rng = random.Random(f"{command} {times} {stop}")
    for turn in range(times):
        folder = tmp_path / str(turn)
        folder.mkdir()
        saved_model(folder)
        before = digest(folder / "model")
        told = stopped(processes, command, folder, stop, rng)
        assert digest(folder / "model") == before
        COMMANDS[command][1](folder, told)


def sharing(folder: Path, start: Any, pipe: Any) -> None:
    """Ask for the same statistics again and again while somebody else does, and deletes them."""
    model = saved_model(folder)
    start.wait()
    for number in range(5):
        found = moments(model, folder / "stats", number)
        pipe.send((number % 3, found.tolist()))
        for path in (folder / "stats").rglob(f"*{number % 2}*.safetensors"):
            path.unlink(missing_ok=True)
    pipe.close()


def test_two_processes_share_a_cache_folder(processes, tmp_path):
    model, start = saved_model(tmp_path), processes.Event()
    ends, children = [], []
    for _ in range(2):
        ours, theirs = processes.Pipe(duplex=False)
        children.append(processes.Process(target=sharing, args=(tmp_path, start, theirs)))
        children[-1].start()
        theirs.close()
        ends.append(ours)
    start.set()
    for pipe in ends:
        for _ in range(5):
            number, found = pipe.recv()
            torch.testing.assert_close(torch.tensor(found), moments(model, tmp_path / "alone", number))
    for process in children:
        process.join()
        assert process.exitcode == 0
    assert not list((tmp_path / "stats").rglob("*.partial"))


def test_what_killed_writers_left_is_swept_away(tmp_path):
    """A file of a wide layer has 800 MB: ten kills must not fill the disk."""
    model = saved_model(tmp_path)
    moments(model, tmp_path / "stats", 0)
    (cached,) = (tmp_path / "stats").rglob("*.safetensors")
    old, new = cached.with_name("old.partial"), cached.with_name("new.partial")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    moments(model, tmp_path / "stats", 1)
    assert not old.exists() and new.exists()  # the other may still be written by somebody
