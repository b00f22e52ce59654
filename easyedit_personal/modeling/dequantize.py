"""Writing a model as a folder that transformers loads in seconds: safetensors, from other safetensors or from GGUF.

A GGUF file takes transformers some 15 s per 100 MB to open, so it is done once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..progress import working
from .pretrained import pretrained, quiet_transformers
from .sources import raise_if_disk


def write_model(source: Path, target: Path, dtype: str) -> None:
    """Load a model and write it, tokenizer and all, into a new folder; it is on the disk when this returns.

    Args:
        source: a folder, or a GGUF file.
        target: must not exist.
        dtype: of the weights that are written, by torch's name.

    Raises:
        ModelError: the source cannot be loaded, or lacks weights.
        OSError: the disk is full.
    """
    model, tokenizer = _opened(source, dtype)
    target.mkdir()
    _forget_gguf(model)
    try:
        with working(f"writing {source.name}"), quiet_transformers():
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
    except Exception as error:  # safetensors and tokenizers raise errors of their own for a full disk
        raise_if_disk(error)
        raise
    mode = (target / "config.json").stat().st_mode
    for path in target.iterdir():
        path.chmod(mode)  # safetensors lets nobody but the owner read; a folder may be shared
        _sync(path)


def _opened(source: Path, dtype: str) -> tuple[Any, Any]:
    if source.is_dir():
        return pretrained(source, dtype=dtype)
    return pretrained(source.parent, gguf_file=source.name, dtype=dtype)


def _forget_gguf(model: Any) -> None:
    """The weights are plain numbers by now; save_pretrained would refuse a model that says it is quantised."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
