"""A user's edits as safetensors bytes: the file of a few kilobytes that is their copy of the model.

The header carries the base model's fingerprint, so that factors are not applied to a model they were not made for.
Numbers that bfloat16 holds exactly take two bytes, whatever their type; they are read in the type that they had. Of
factors that are mostly zeros, the zeros take none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..errors import StoreError
from ..types import WeightDelta, as_kept, from_kept, narrowed

FORMAT = "easyedit-personal/1"
WIDENED = {"float32": torch.float32}  # types that factors had before they were narrowed

Lookup = Callable[[str], WeightDelta]


def nowhere(name: str) -> WeightDelta:
    """Where factors are looked up if there are none besides those of the file.

    Raises:
        StoreError: always.
    """
    raise StoreError(
        "These factors are not whole: a part that many users share is missing.",
        got=f"the name {name}",
        remedy="read them from the store that they lie in",
    )


def factors_to_bytes(
    deltas: Sequence[WeightDelta],
    *,
    fingerprint: str,
    dtype: torch.dtype = torch.float32,
    names: Mapping[int, str] | None = None,
    **metadata: str,
) -> bytes:
    """Serialise factors.

    Args:
        deltas: the updates, several per matrix allowed.
        fingerprint: of the base model (``modeling.layout.fingerprint``).
        dtype: float32 keeps every bit; bfloat16 halves the size and rounds.
        names: what to write instead of the updates with these numbers, which are kept elsewhere.
        metadata: further strings for the header, such as the preference's text, or as ``model`` what to call the base
            model in messages (``modeling.catalog.model_label``).
    """
    names = names or {}
    tensors: dict[str, torch.Tensor] = {}
    for number, delta in enumerate(deltas):
        if number not in names:
            for side in ("left", "right"):
                factor = getattr(delta, side).detach().to("cpu", dtype, copy=True)
                parts = as_kept(factor).items()
                tensors |= {f"{number}.{side}{part}": narrowed(tensor).contiguous() for part, tensor in parts}
    header = {"format": FORMAT, "fingerprint": fingerprint, "layers": json.dumps([delta.layer for delta in deltas])}
    if names:
        header["elsewhere"] = json.dumps({str(number): name for number, name in names.items()})
    if any(tensor.dtype != dtype for tensor in tensors.values() if tensor.is_floating_point()):
        header["dtype"] = str(dtype).removeprefix("torch.")
    return save(tensors, {**metadata, **header})


def factors_from_bytes(
    data: bytes, *, fingerprint: str | None = None, elsewhere: Lookup = nowhere
) -> tuple[list[WeightDelta], dict[str, str]]:
    """Read what ``factors_to_bytes`` wrote.

    Args:
        data: the file's bytes.
        fingerprint: of the model they are meant for; None skips the check.
        elsewhere: gives the updates that the file only names.

    Returns:
        The updates and the header.

    Raises:
        StoreError: the bytes are damaged, no file of ours, or made for another base model; a part is missing.
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
        if "dtype" in header:
            wide = WIDENED[header["dtype"]]
            tensors = {name: t.to(wide) if t.is_floating_point() else t for name, t in tensors.items()}
        layers, names = json.loads(header["layers"]), json.loads(header.get("elsewhere", "{}"))
        own = {
            i: WeightDelta(path, from_kept(tensors, f"{i}.left"), from_kept(tensors, f"{i}.right"))
            for i, path in enumerate(layers)
            if str(i) not in names
        }
    except (SafetensorError, KeyError, IndexError, RuntimeError, json.JSONDecodeError) as error:
        raise StoreError(f"The factors file is damaged: {error}") from None
    return [own[i] if i in own else elsewhere(names[str(i)]) for i in range(len(layers))], header


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
