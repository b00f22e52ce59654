"""How many clusters are optimised together: as many as pay and as fit the memory that is free right now.

Rows are packed by length, since padding costs as much as tokens do; the memory budget is found, not configured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from ..modeling.layout import Layout, get_module, input_device, weight_of
from .keys import Cluster, all_rows

# Tokens per step from which on a larger batch is no faster: a CPU core's products are at their best from 256 rows on.
ENOUGH = {"cpu": 1024, "cuda": 16384}
SHARE = 0.4  # of the free memory: others may want some, and the estimate is one
WIDEST = 1.25  # longest against shortest suffix in a batch that has enough tokens
SAVED = 20  # numbers of width d_model or so that one layer keeps per token for the backward pass, MLP not counted
SAVED_MLP = 6  # the same of width d_mlp
LOGIT_COPIES = 5  # logits, their logarithms and gradients
UNKNOWN = 2**30  # bytes assumed free where the system does not say


def packed(model: nn.Module, layout: Layout, clusters: Sequence[Cluster], layer: int) -> Iterator[list[int]]:
    """Numbers of the clusters that are optimised together, shortest suffixes first."""
    budget, enough = SHARE * free_bytes(model), ENOUGH.get(input_device(model).type, ENOUGH["cuda"])
    sizes = [(_suffix(cluster), max(len(row.ids) for row in _rows(cluster))) for cluster in clusters]
    pack: list[int] = []
    for number in sorted(range(len(clusters)), key=lambda i: sizes[i]):
        together = [*pack, number]
        rows = [row for i in together for row in _rows(clusters[i])]
        suffix, width = (max(sizes[i][k] for i in together) for k in (0, 1))
        tokens = sum(len(_rows(clusters[i])) for i in pack) * (sizes[pack[-1]][0] if pack else 0)
        targets = sum(len(row.target_ids) or 1 for row in rows)
        full = tokens >= enough and (suffix > WIDEST * sizes[pack[0]][0] or tokens >= 2 * enough)
        if pack and (full or _bytes(model, layout, layer, len(rows), suffix, width, targets) > budget):
            yield pack
            pack = []
        pack.append(number)
    if pack:
        yield pack


def _rows(cluster: Cluster) -> list:
    return [*all_rows([cluster]), *cluster.drift]


def _suffix(cluster: Cluster) -> int:
    """Columns from the key to the last token that predicts something."""
    return max(max(len(row.ids) - 1, row.key_index + 1) - row.key_index for row in _rows(cluster))


def _bytes(model: nn.Module, layout: Layout, layer: int, rows: int, suffix: int, width: int, targets: int) -> float:
    """About what one step holds at its highest: saved activations, the prefix's keys and values, logits."""
    above, size = layout.n_layers - layer, next(model.parameters()).element_size()
    saved = rows * suffix * above * (SAVED * layout.d_model + SAVED_MLP * layout.d_mlp) * size
    # Kept once, and once more per step where attention reads them joined to the suffix's own; the first pass fills
    # them for every layer.
    prefix = rows * width * 2 * layout.d_model * (layout.n_layers + above) * size
    first_pass = rows * width * (SAVED * layout.d_model + SAVED_MLP * layout.d_mlp) * size
    vocabulary = weight_of(get_module(model, layout.head)).shape[0]
    return max(saved + targets * int(vocabulary) * 4 * LOGIT_COPIES, first_pass) + prefix


def free_bytes(model: nn.Module) -> int:
    """Memory that can be had now: the GPU's, or what Linux calls available."""
    device = input_device(model)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return UNKNOWN
