"""A user's edits as a PEFT LoRA adapter folder, which PEFT, vLLM, SGLang and LoRAX serve (see docs/serving.md).

An update ``left @ right`` is LoRA's B A at scaling 1, so nothing is trained or approximated on the way. Servers have
one rank and one scale per adapter: factors are padded with zeros to one of the usual ranks, ``lora_alpha`` equals it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import StoreError
from ..kernels.apply import check_fit
from ..modeling.families import known_families
from ..modeling.layout import find_layout, get_module, is_transposed
from ..serving.multi_adapter import merged
from ..types import WeightDelta
from .folders import folder_name, replace_folder, write_text

RANKS = (8, 16, 32, 64, 128, 256, 512)  # those that vLLM's --max-lora-rank takes, without its 1 and 320
CONFIG, WEIGHTS, INDEX = "adapter_config.json", "adapter_model.safetensors", "index.json"
PREFIX = "base_model.model."


class UserStore(Protocol):
    """What ``export_many`` needs of a store."""

    def version(self, user: str) -> int:
        """A number that changes with every change of the user's updates and never comes back."""
        ...

    def users(self) -> Iterable[str]:
        """Every user with edits."""
        ...

    def deltas(self, user: str) -> Sequence[WeightDelta]:
        """A user's live updates."""
        ...


def export_lora(
    deltas: Sequence[WeightDelta],
    folder: str | Path,
    *,
    base_model: str = "",
    name: str = "adapter",
    model: nn.Module | None = None,
    every_layer: bool = False,
    dtype: torch.dtype | None = None,
    max_rank: int = RANKS[-1],
) -> Path:
    """Write updates as an adapter that ``PeftModel.from_pretrained(model, folder)`` loads.

    The folder appears whole or not at all; an adapter that is already there is replaced.

    Args:
        deltas: the updates, several per matrix allowed.
        folder: where to; its parents are made.
        base_model: name or path of the base model; vLLM's folder resolver compares it with the served model's.
        name: kept in the weights' header, for people.
        model: the base model, to check shapes and to see which projections are Conv1D; by their paths without it.
        every_layer: also list the projections of all other layers, with zeros: LoRAX ignores an adapter in which a
            layer is missing. Needs ``model``.
        dtype: of the factors in the file; as they are when None. Rounding to half precision costs accuracy.
        max_rank: ranks above are refused, unless the update's true rank is lower (dense updates are cut by SVD).

    Returns:
        The folder.

    Raises:
        StoreError: there is nothing to export, the rank is too high, or the folder holds something else.
        ModelError: an update does not fit ``model``.
    """
    files = lora_files(
        deltas,
        base_model=base_model,
        name=name,
        model=model,
        every_layer=every_layer,
        dtype=dtype,
        max_rank=max_rank,
    )

    def write(part: Path) -> None:
        for file, content in files.items():
            (part / file).write_bytes(content)

    return replace_folder(Path(folder), write, allowed=set(files))


def lora_files(
    deltas: Sequence[WeightDelta],
    *,
    base_model: str = "",
    name: str = "adapter",
    model: nn.Module | None = None,
    every_layer: bool = False,
    dtype: torch.dtype | None = None,
    max_rank: int = RANKS[-1],
) -> dict[str, bytes]:
    """The files of ``export_lora``'s folder by name, for those who send them on; its arguments, and its errors."""
    updates = merged(deltas)
    if not updates:
        raise StoreError(
            "There are no edits to export.", needed="at least one update", remedy="serve such users with the base model"
        )
    if model is not None:
        check_fit(model, list(updates.values()))
    updates = {path: _within(delta, max_rank) for path, delta in updates.items()}
    rank = padded_rank(max(delta.rank for delta in updates.values()))
    if every_layer:
        updates = {**_zeros(model, updates), **updates}
    config = _config(updates, rank, base_model, model)
    label = name[:200].encode("utf-8", "replace").decode()  # ids may hold lone surrogates, headers may not
    weights = save(_tensors(updates, rank, dtype), {"format": "pt", "adapter": label, "made_by": "easyedit-personal"})
    return {WEIGHTS: weights, CONFIG: (json.dumps(config, indent=2) + "\n").encode()}


def export_many(store: UserStore, folder: str | Path, **options: Any) -> Path:
    """Write one adapter per user of a store, and ``index.json``, which says whose is in which subfolder.

    A user's name never becomes a path: harmless names are kept, others become a few of their letters and a digest. The
    revision follows, ``alice@17``: a server that has loaded an adapter never finds another one under its name. The
    revisions of an earlier export lose their subfolder, so that what was undone or forgotten is not served from it.

    Args:
        store: an ``EditStore``, or anything with ``users()``, ``version(user)`` and ``deltas(user)``.
        folder: where to.
        options: of ``export_lora``, the same for all users.

    Returns:
        The path of ``index.json``: ``{"adapters": {user: {"folder": "alice@17", "revision": 17, "rank": ...,
        "layers": [...]}}, ...}``.

    Raises:
        StoreError, ModelError: as ``export_lora``, naming the user; what was written before remains.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    before = _folders(folder / INDEX)
    adapters: dict[str, dict[str, Any]] = {}
    for user in store.users():
        revision, deltas = snapshot(store, user)
        if deltas:
            adapters[user] = _export_one(user, revision, deltas, folder, options)
    largest = max((entry["rank"] for entry in adapters.values()), default=0)
    index = {"base_model": options.get("base_model", ""), "max_lora_rank": largest, "adapters": adapters}
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    for name in before - {entry["folder"] for entry in adapters.values()}:
        remove_adapter(folder / name)
    return folder / INDEX


def remove_adapter(folder: Path) -> None:
    """Remove an adapter's folder; one that holds anything else stays, and one that is gone is fine."""
    with suppress(FileNotFoundError):
        if (
            folder.is_dir()
            and not folder.is_symlink()
            and {entry.name for entry in folder.iterdir()} <= {CONFIG, WEIGHTS}
        ):
            shutil.rmtree(folder)


def padded_rank(rank: int) -> int:
    """The next rank that servers take; above the largest of them the next multiple of it."""
    return next((size for size in RANKS if size >= rank), -(-rank // RANKS[-1]) * RANKS[-1])


def snapshot(store: UserStore, user: str) -> tuple[int, Sequence[WeightDelta]]:
    """A user's revision and the updates that belong to it."""
    while True:
        revision, deltas = store.version(user), store.deltas(user)
        if store.version(user) == revision:
            return revision, deltas


def _export_one(
    user: str, revision: int, deltas: Sequence[WeightDelta], folder: Path, options: Mapping[str, Any]
) -> dict[str, Any]:
    target = folder / f"{folder_name(user)}@{revision}"
    try:
        export_lora(deltas, target, **{"name": user, **options})
    except StoreError as error:
        raise StoreError(f"The edits of user {user[:80]!r} cannot be exported: {error}") from error
    config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
    return {"folder": target.name, "revision": revision, "rank": config["r"], "layers": config["target_modules"]}


def _within(delta: WeightDelta, max_rank: int) -> WeightDelta:
    """The same update with at most ``max_rank`` columns, if it has no more independent ones; in float64."""
    if delta.rank <= max_rank:
        return delta
    left, values, right = torch.linalg.svd(delta.to("cpu", torch.float64).update(), full_matrices=False)
    noise = values[0] * max(delta.shape) * torch.finfo(delta.left.dtype).eps
    rank = int((values > noise).sum())
    if rank > max_rank:
        raise StoreError(
            f"The update of {delta.layer!r} has too high a rank for an adapter.",
            got=f"rank {rank}",
            needed=f"at most {max_rank}",
            cause="a dense update (kernel finetune without a rank), or very many edits of one user",
            remedy="compact the user's edits to a rank, or use a low-rank kernel; larger ranks: max_rank=...",
        )
    root = values[:rank].sqrt()
    kept = WeightDelta(delta.layer, left[:, :rank] * root, root[:, None] * right[:rank])
    return kept.to(delta.left.dtype)


def _zeros(model: nn.Module | None, updates: Mapping[str, WeightDelta]) -> dict[str, WeightDelta]:
    """Empty updates (rank 0) for every layer's down projection."""
    if model is None:
        raise StoreError("every_layer needs the base model.", remedy="pass model=...")
    layout = find_layout(model)
    like = next(iter(updates.values())).left
    left, right = like.new_zeros(layout.d_model, 0), like.new_zeros(0, layout.d_mlp)
    return {path: WeightDelta(path, left, right) for path in map(layout.rewrite_path, range(layout.n_layers))}


def _config(updates: Mapping[str, WeightDelta], rank: int, base_model: str, model: nn.Module | None) -> dict[str, Any]:
    """What PEFT's LoraConfig needs, and what servers look for; everything that they refuse is off."""
    conv = {path: _is_conv1d(path, model) for path in updates}
    if len(set(conv.values())) > 1:
        raise StoreError("One adapter cannot hold both Conv1D and linear projections.", got=conv)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(conv.values()),
        "target_modules": list(updates),
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def _is_conv1d(path: str, model: nn.Module | None) -> bool:
    if model is not None:
        return is_transposed(get_module(model, path), path)
    # PEFT corrects a wrong guess, and warns.
    return any(family.fan_in_fan_out and family.has_down(path) for family in known_families())


def _tensors(updates: Mapping[str, WeightDelta], rank: int, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A [r, d_in] and B [d_out, r] of every projection, under PEFT's names, padded with zeros."""
    tensors = {}
    for path, delta in updates.items():
        (d_out, d_in), kind = delta.shape, dtype or delta.left.dtype
        a, b = torch.zeros(rank, d_in, dtype=kind), torch.zeros(d_out, rank, dtype=kind)
        a[: delta.rank], b[:, : delta.rank] = delta.right.detach(), delta.left.detach()
        if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
            raise StoreError(f"The factors of {path!r} overflow {kind}.", remedy="export in float32 or bfloat16")
        tensors[f"{PREFIX}{path}.lora_A.weight"], tensors[f"{PREFIX}{path}.lora_B.weight"] = a, b
    return tensors


def _folders(index: Path) -> set[str]:
    """The subfolders that an earlier export made; none where there is none, or its index was tampered with."""
    try:
        adapters = json.loads(index.read_text(encoding="utf-8"))["adapters"]
        return {f"{folder_name(user)}@{int(entry['revision'])}" for user, entry in adapters.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
