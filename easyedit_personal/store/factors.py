"""A user's edits as safetensors bytes: the file of a few kilobytes that is their copy of the model.

The header carries the base model's fingerprint, so that factors are not applied to a model they were not made for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..errors import StoreError
from ..types import WeightDelta

FORMAT = "easyedit-personal/1"


def factors_to_bytes(
    deltas: Sequence[WeightDelta], *, fingerprint: str, dtype: torch.dtype = torch.float32, **metadata: str
) -> bytes:
    """Serialise factors.

    Args:
        deltas: the updates, several per matrix allowed.
        fingerprint: of the base model (``modeling.layout.fingerprint``).
        dtype: float32 keeps every bit; bfloat16 halves the size and rounds.
        metadata: further strings for the header, such as the preference's text, or as ``model`` what to call the base
            model in messages (``modeling.catalog.model_label``).
    """
    tensors = {}
    for number, delta in enumerate(deltas):
        tensors[f"{number}.left"] = delta.left.detach().to("cpu", dtype, copy=True).contiguous()
        tensors[f"{number}.right"] = delta.right.detach().to("cpu", dtype, copy=True).contiguous()
    header = {"format": FORMAT, "fingerprint": fingerprint, "layers": json.dumps([delta.layer for delta in deltas])}
    return save(tensors, {**metadata, **header})


def factors_from_bytes(data: bytes, *, fingerprint: str | None = None) -> tuple[list[WeightDelta], dict[str, str]]:
    """Read what ``factors_to_bytes`` wrote.

    Args:
        data: the file's bytes.
        fingerprint: of the model they are meant for; None skips the check.

    Returns:
        The updates and the header.

    Raises:
        StoreError: the bytes are damaged, no file of ours, or made for another base model.
    """
    header = _header(data)
    if header.get("format") != FORMAT:
        raise StoreError("This is no factors file of ours.", got=header.get("format"), needed=FORMAT)
    if fingerprint is not None and header["fingerprint"] != fingerprint:
        raise StoreError(
            "These factors were made for another base model.",
            got=f"{header.get('model') or 'a model without a name'}; fingerprint {header['fingerprint']}",
            needed=f"fingerprint {fingerprint}",
            remedy="load the model they were made with, or personalise again",
        )
    try:
        tensors = load(data)
        layers = json.loads(header["layers"])
        deltas = [WeightDelta(path, tensors[f"{i}.left"], tensors[f"{i}.right"]) for i, path in enumerate(layers)]
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise StoreError(f"The factors file is damaged: {error}") from None
    return deltas, header


def save_factors(path: str | Path, deltas: Sequence[WeightDelta], **options: Any) -> int:
    """Write a factors file, whole or not at all; returns its size in bytes."""
    data = factors_to_bytes(deltas, **options)
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error}") from None
    return len(data)


def load_factors(path: str | Path, **options: Any) -> tuple[list[WeightDelta], dict[str, str]]:
    """Read a factors file; see ``factors_from_bytes``."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    return factors_from_bytes(data, **options)


def _header(data: bytes) -> dict[str, str]:
    """The ``__metadata__`` of safetensors bytes (8 bytes length, then JSON), without a file on disk."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        return {str(key): str(value) for key, value in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError("This is no safetensors data.", cause=f"damaged or cut off ({error!r})") from None
