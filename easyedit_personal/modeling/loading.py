"""One door for every way to name a model: a known name, a folder, a hub name, or a (model, tokenizer) pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import DEFAULT_MODEL
from ..errors import ModelError
from ..hparams import PersonalizationHyperParams
from .pretrained import pretrained
from .wrappers import unwrapped


def load_model(hparams: PersonalizationHyperParams) -> tuple[nn.Module, Any]:
    """Load the model that ``hparams.model_name`` names, on ``hparams.device``, in evaluation mode.

    Raises:
        ModelError: the folder is missing or incomplete, the hub does not answer, or the device is not there.
    """
    name = hparams.model_name
    if isinstance(name, (tuple, list)):
        return _given(name)
    device = torch_device(hparams.device)
    if name == DEFAULT_MODEL:
        raise ModelError(f"The model {name!r} is not at hand.", remedy="name another: --model FOLDER, or model_name")
    model, tokenizer = _pretrained(str(name), torch.float16 if hparams.fp16 else "auto", hparams.model_parallel)
    if not hparams.model_parallel:
        model = model.to(device)
    return model.eval(), tokenizer


def torch_device(device: int | str) -> torch.device:
    """EasyEdit's ``device`` (a number means that CUDA device, or a torch name) as a torch device that exists."""
    wanted = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"Device {str(wanted)!r} is not there.",
            needed=f"one of cpu, {', '.join(f'cuda:{i}' for i in range(torch.cuda.device_count())) or '(no CUDA)'}",
            cause="no GPU, or a CPU build of PyTorch",
            remedy="set `device: cpu`",
        )
    return wanted


def _given(pair: Any) -> tuple[nn.Module, Any]:
    if len(pair) != 2 or not isinstance(pair[0], nn.Module) or not callable(pair[1]):
        raise ModelError("model_name is no (model, tokenizer) pair.", got=[type(part).__name__ for part in pair])
    return unwrapped(pair[0]), pair[1]


def _pretrained(name: str, dtype: Any, parallel: bool) -> tuple[nn.Module, Any]:
    folder = Path(name).expanduser()
    # A local-looking path must exist: transformers would otherwise complain about a "repo id".
    if name.startswith((".", "/", "~")) and not (folder / "config.json").is_file():
        raise ModelError(
            f"There is no model in {name!r}.",
            needed="a folder with config.json, weights (safetensors) and tokenizer files",
            cause="the folder does not exist" if not folder.is_dir() else "it holds no config.json",
        )
    source = str(folder) if folder.is_dir() else name
    return pretrained(source, dtype=dtype, device_map="auto" if parallel else None)
