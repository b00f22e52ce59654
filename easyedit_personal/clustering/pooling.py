"""Small steps that the embedders share: checked texts, batches padded by us, masked means, unit length.

Padding is ours (on the right, with a mask) so that no vector depends on ``tokenizer.padding_side``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, text_fault


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list.

    Raises:
        DataError: a single string instead of several, or an element that is no text or blank.
    """
    if isinstance(texts, (str, bytes)):
        raise DataError("A list of texts is needed.", got=texts, needed="a sequence of strings", remedy="[text]")
    found = list(texts)
    for index, text in enumerate(found):
        if fault := text_fault(text):
            raise DataError(f"Text {index} {fault}.", needed="a non-blank string")
    return [str(text) for text in found]


def in_batches(items: Sequence[Any], size: int, encode: Callable[[Sequence[Any]], Tensor]) -> np.ndarray:
    """Unit vectors [n, d] of n items, ``size`` of them at a time; [0, 0] for none."""
    parts = [encode(items[start : start + size]).float().cpu() for start in range(0, len(items), size)]
    return unit(torch.cat(parts)).numpy() if parts else np.zeros((0, 0), np.float32)


def padded(rows: Sequence[Sequence[int]], device: torch.device | str) -> Tensor:
    """Rows of numbers as one tensor [n, longest], zeros on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean [n, d] of states [n, t, d] over the columns that ``mask`` [n, t] marks with 1."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def unit(vectors: Tensor) -> Tensor:
    """Vectors brought to Euclidean length 1; zeros stay zeros."""
    return torch.nn.functional.normalize(vectors, dim=-1)
