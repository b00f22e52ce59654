"""Second moments C = E[k k^T] of a down projection's input: what directions ordinary text uses, and how much.

ROME and MEMIT weigh their updates with C^-1, so that keys of other texts are moved little. C comes from any text, or
from what the model writes by itself, and is kept on disk under everything that it depends on.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import DataError, ModelError
from ..hparams import PersonalizationHyperParams
from ..progress import log, progress
from .catalog import model_label
from .layout import Layout, find_layout, fingerprint, input_device
from .memory import in_halves
from .stats_text import Questions, find_source
from .tokens import Batch, Encoded, collate
from .trace import trace

BATCH_TOKENS = 4096
ABANDONED_S = 3600  # nobody writes one file for that long


def second_moments(
    model: nn.Module,
    tokenizer: Any,
    layers: Sequence[int],
    hparams: PersonalizationHyperParams,
    *,
    dataset: str | Path | Sequence[str] | Questions | None = None,
) -> dict[int, Tensor]:
    """C of each layer's down projection, from the disk where it was computed before.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        layers: decoder layers; those that are not cached are computed in one pass over the text.
        hparams: ``mom2_dataset``, ``mom2_n_samples``, ``mom2_dtype``, ``stats_dir``, ``max_length``, ``seed``.
        dataset: instead of ``mom2_dataset``: "self" (the model's own samples), a file (.txt: a text per line; .json
            or .jsonl: strings, or objects with "text"), a list of texts, questions, or a data set of the hub.

    Returns:
        layer -> C [d_mlp, d_mlp], symmetric, on the CPU.

    Raises:
        DataError: the file cannot be read, or there is no text in it.
        ModelError: the model has no such layer, or its keys are not finite.
    """
    layout = find_layout(model, hparams)
    source = find_source(model, tokenizer, hparams, hparams.mom2_dataset if dataset is None else dataset)
    # Down projections that are edited do not count: an edited model's statistics are its base model's, as in ROME
    # and MEMIT. At the lowest edited layer this is exact, since its keys do not depend on them.
    edited = [layout.rewrite_path(layer) for layer in {*hparams.layers, *layers}]
    base = fingerprint(model, without=edited)
    paths = {layer: _cache_file(hparams, base, layer, source.digest) for layer in layers}
    found = {layer: value for layer, path in paths.items() if (value := _read(path, layout.d_mlp)) is not None}
    missing = [layer for layer in layers if layer not in found]
    if missing:
        dtype = getattr(torch, hparams.mom2_dtype)
        total = None if source.ends_only else hparams.mom2_n_samples
        computed = collect(
            model, tokenizer, layout, missing, source.rows(), dtype, total=total, ends_only=source.ends_only
        )
        for layer, moment in computed.items():
            _write(paths[layer], moment)
        found.update(computed)
    return {layer: found[layer] for layer in layers}


@torch.no_grad()
def collect(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    layers: Sequence[int],
    rows: Iterable[Encoded],
    dtype: torch.dtype = torch.float32,
    *,
    total: int | None = None,
    ends_only: bool = False,
) -> dict[int, Tensor]:
    """C of each layer over the tokens of ``rows`` (their last ones only); only one batch is in memory at a time.

    Raises:
        DataError: there is no token in any row.
        ModelError: the keys are not finite.
    """
    names = {layer: layout.rewrite_path(layer) for layer in layers}
    sums: dict[int, Tensor] = {}  # each on its layer's device
    count = 0
    look = lambda group: _moments(model, tokenizer, names, group, dtype, ends_only)
    for batch in _batches(progress(rows, "second moments", total=total)):
        for found, tokens in in_halves(look, batch, "texts", model):
            count += tokens
            for layer, moment in found.items():
                sums[layer] = sums[layer].add_(moment) if layer in sums else moment
    if not count:
        raise DataError("There is no text to compute second moments from.", cause="an empty file or list")
    if not all(bool(total.isfinite().all()) for total in sums.values()):
        raise ModelError(
            f"The second moments of {model_label(model)} are not finite.",
            cause="activations overflow in half precision",
            remedy="load the model in bfloat16 or float32",
        )
    return {layer: (sums[layer] / count).cpu() for layer in layers}


def _moments(
    model: nn.Module,
    tokenizer: Any,
    names: dict[int, str],
    group: Sequence[Encoded],
    dtype: torch.dtype,
    ends_only: bool,
) -> tuple[dict[int, Tensor], int]:
    """Sums of k k^T over one batch by layer, and the number of keys."""
    batch = collate(group, tokenizer, device=input_device(model))
    with trace(model, list(names.values()), stop=True) as calls:
        model(**batch.model_inputs(), use_cache=False)
    real = _counted(batch, ends_only)
    found = {}
    for layer, name in names.items():
        keys = calls[name].input.reshape(len(real), -1)
        keys = keys[real.to(keys.device)].to(dtype)
        found[layer] = keys.T @ keys
    return found, int(real.sum())


def _counted(batch: Batch, ends_only: bool) -> Tensor:
    """[n * t], true at the tokens whose keys count."""
    if not ends_only:
        return batch.attention_mask.bool().reshape(-1)
    marks = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
    return marks.scatter(1, batch.last_index[:, None], True).reshape(-1)


def _batches(rows: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    """Consecutive rows of about BATCH_TOKENS tokens together, padding included."""
    group: list[Encoded] = []
    for row in rows:
        if not row.ids:
            continue
        widest = max(len(row.ids), *(len(other.ids) for other in group), 0)
        if group and widest * (len(group) + 1) > BATCH_TOKENS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def cache_folder(hparams: PersonalizationHyperParams) -> Path:
    """Where numbers are kept that belong to models: ``stats_dir``, or the user's cache."""
    if hparams.stats_dir:
        return Path(hparams.stats_dir).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("easyedit-personal") / "stats"


def _cache_file(hparams: PersonalizationHyperParams, base: str, layer: int, digest: str) -> Path:
    return (
        cache_folder(hparams)
        / base
        / f"{digest}-n{hparams.mom2_n_samples}-layer{layer}-{hparams.mom2_dtype}.safetensors"
    )


def _read(path: Path, d_mlp: int) -> Tensor | None:
    """What an earlier run wrote; None when there is nothing, or nothing that can be used."""
    if not path.is_file():
        return None
    try:
        moment = load_file(path)["second_moment"]
    except (SafetensorError, OSError, KeyError) as error:
        log.warning("%s is damaged and is computed again: %s", path, error)
        return None
    return moment if moment.shape == (d_mlp, d_mlp) and bool(moment.isfinite().all()) else None


def _write(path: Path, moment: Tensor) -> None:
    """Write beside the file and rename: readers see all or nothing, and of two writers the last one wins."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        os.close(handle)
        try:
            save_file({"second_moment": moment.contiguous()}, name)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        log.warning("second moments could not be kept in %s: %s", path.parent, error)


def _sweep(folder: Path) -> None:
    """Delete what killed writers have left: a wide layer's file has 800 MB. A younger one may still be written."""
    for path in folder.glob("*.partial"):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()
        except FileNotFoundError:  # somebody else swept, or finished it
            continue
