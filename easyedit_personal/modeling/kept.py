"""Tensors and plain values that are computed once per model and kept on disk: all or nothing, damaged ones anew."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..progress import log

Tensors = dict[str, Tensor]


def kept(
    path: Path, work: Callable[[], tuple[Tensors, dict[str, Any]]], write: bool = True
) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and plain values from a file, or from ``work``; these are written to it then, all or nothing."""
    found = read_kept(path)
    if found is None:
        found = work()
        if write:
            write_kept(path, *found)
    return found


def read_kept(path: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """What was written to a file; None where there is none, or it is damaged, which is said."""
    if not path.is_file():
        return None
    try:
        with (path.with_suffix(".json")).open(encoding="utf-8") as file:
            return load_file(path), json.load(file)
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("%s is damaged and is computed again: %s", path, error)
        return None


def write_kept(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a file and its plain values beside it; where that cannot be done, it is said and nothing is left behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path.with_suffix(".json"), lambda name: Path(name).write_text(json.dumps(values), encoding="utf-8"))
        _replace(path, lambda name: save_file({key: value.contiguous() for key, value in tensors.items()}, name))
    except OSError as error:
        log.warning("%s could not be written: %s", path, error)


def _replace(path: Path, write: Callable[[str], Any]) -> None:
    """Write beside the file and rename: readers see all or nothing, and of two writers the last one wins."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        write(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
