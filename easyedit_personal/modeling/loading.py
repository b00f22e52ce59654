"""Every way to name a model: a known name, a folder, a GGUF file, a hub id, or a (model, tokenizer) pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError, did_you_mean
from ..hparams import PersonalizationHyperParams
from .catalog import MODELS
from .hub import cached_snapshot, hub_status
from .memory import enough_for
from .prepare import find_gguf, find_model
from .pretrained import NEEDED, pretrained
from .wrappers import unwrapped


def load_model(hparams: PersonalizationHyperParams) -> tuple[nn.Module, Any]:
    """Load the model that ``hparams.model_name`` names, on ``hparams.device``, in evaluation mode.

    A name of ``catalog.MODELS`` wins over a folder of that name, which ``./name`` means; what is not at hand is
    downloaded.

    Raises:
        ModelError: the folder is missing or incomplete, the model cannot be had, or the device is not there.
    """
    name = hparams.model_name
    if isinstance(name, (tuple, list)):
        return _given(name)
    device = torch_device(hparams.device)
    model, tokenizer = _pretrained(str(name), torch.float16 if hparams.fp16 else "auto", hparams.model_parallel)
    if not hparams.model_parallel:
        with enough_for("the weights", model):
            model = model.to(device)
    return model.eval(), tokenizer


def torch_device(device: int | str) -> torch.device:
    """EasyEdit's ``device`` (a number means that CUDA device, or a torch name) as a torch device that exists.

    Raises:
        ModelError: there is no such kind of device, or none of that number here.
    """
    try:
        wanted = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
        count = torch.get_device_module(wanted).device_count()
    except RuntimeError:
        raise ModelError("This is no device to compute on.", got=device, needed="cpu, cuda, cuda:1, mps, ...") from None
    if (wanted.index or 0) >= count:
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
    options = {"dtype": dtype, "device_map": "auto" if parallel else None}
    folder = local_folder(name)
    if folder is not None:
        return pretrained(folder, **options)
    repo = MODELS[name].hub_id if name in MODELS else name
    hint = "" if name in MODELS else did_you_mean(name, MODELS)
    if hub_status(repo) is not None:
        return pretrained(repo, needed=f"{NEEDED}.{hint}" if hint else NEEDED, **options)
    # transformers would try again for a minute before it looks here.
    folder = cached_snapshot(repo)
    if folder is None:
        raise ModelError(
            f"The model {repo!r} is neither a folder nor in the hub's cache here, and the hub is silent.{hint}",
            needed=NEEDED,
            cause="a misspelt name, no network, or HF_HUB_OFFLINE is set",
            remedy="`easyedit-personal models` lists what can be had, and what is at hand",
        )
    model, tokenizer = pretrained(folder, **options)
    model.config._name_or_path = repo  # type: ignore[union-attr]
    return model, tokenizer


def local_folder(name: str) -> Path | None:
    """Where a model's files are on this machine, prepared or downloaded if need be; None where only the hub has them.

    Raises:
        ModelError: a path without a model, or a known model that cannot be had.
    """
    if name in MODELS:
        return None if MODELS[name].hub_id else find_model(name)
    folder = Path(name).expanduser()
    if folder.suffix.lower() == ".gguf":
        return find_gguf(folder)
    # A local-looking path must exist: transformers would otherwise complain about a "repo id".
    if name.startswith((".", "/", "~")) and not (folder / "config.json").is_file():
        raise ModelError(
            f"There is no model in {name!r}.",
            needed="a folder with config.json, weights (safetensors) and tokenizer files, or a GGUF file",
            cause="the folder does not exist" if not folder.is_dir() else "it holds no config.json",
        )
    return folder if folder.is_dir() else None
