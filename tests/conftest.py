"""Shared fixtures: tiny random models built in memory, and the official data where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy cores make torch's default 6-20 times slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

OFFICIAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def official_data() -> Path:
    """Folder of the official UPQA and PrefEval files; they are not ours to ship."""
    folder = Path(os.environ.get("EASYEDIT_PERSONAL_DATA", OFFICIAL))
    if not (folder / "upqa").is_dir():
        pytest.skip(f"official data not found at {folder} (set EASYEDIT_PERSONAL_DATA)")
    return folder


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
