"""What a result has to say about itself: model, data, settings, versions, commit, hardware."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..data.records import UPQAItem
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import fingerprint, tokenizer_fingerprint
from .plan import Plan

WHERE = ("device", "model_name", "model_parallel", "made_for")  # where a run happens does not make it another one
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy")


def describe_setup(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[UPQAItem],
    plan: Plan,
    hparams: PersonalizationHyperParams | None,
    *,
    data: str,
    model_name: str,
) -> dict[str, Any]:
    """The record under "setup"; two runs may share a folder if it is the same but for versions and hardware."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    return {
        "schema": 1,
        "model": model_name or kind,
        "fingerprint": fingerprint(model),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        **describe_plan(items, plan, hparams, data=data),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
    }


def describe_plan(
    items: Sequence[UPQAItem], plan: Plan, hparams: PersonalizationHyperParams | None, *, data: str
) -> dict[str, Any]:
    """The part of the setup that is known before a model is loaded."""
    return {
        "data": Path(data).name,
        "data_digest": digest([asdict(item) for item in items]),
        "n": len(items),
        "users": [item.id for item in items],
        "seed": plan.seed,
        "protocol": plan.protocol,
        "plan": plan.describe(),
        "hparams": digest({k: v for k, v in hparams.to_dict().items() if k not in WHERE}) if hparams else "shipped",
    }


def digest(value: Any) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python, of ourselves and of what figures may depend on."""
    found = {"python": platform.python_version(), "easyedit-personal": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, "+" added when files differ from it; None for an installed package."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


def hardware() -> str:
    """Processor or GPU, and threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
