"""What a layer was called with in one pass, for other passes: behind the keys and values of a first one, of some rows.

Everything that needs to know how transformers passes masks, positions and caches to a decoder layer is here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .trace import Call


class Prefix:
    """Stands where a layer expects its cache: the first pass's keys and values before ``start``, then the new ones.

    It keeps nothing of what it is given, so the layers above can be run again and again.
    """

    def __init__(self, layers: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        self._layers = layers

    @classmethod
    def of(cls, cache: DynamicCache, layers: Sequence[int], start: int) -> Prefix:
        """The columns before ``start`` of some layers; copied, so that the cache itself can go."""
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        for number in layers:
            old: Any = cache.layers[number]
            kept[number] = (old.keys[..., :start, :].clone(), old.values[..., :start, :].clone())
        return cls(kept)

    @classmethod
    def joined(cls, parts: Sequence[Prefix]) -> Prefix:
        """Those of other rows, one after the other."""
        sides = {number: zip(*(part._layers[number] for part in parts)) for number in parts[0]._layers}
        return cls({number: (torch.cat(keys), torch.cat(values)) for number, (keys, values) in sides.items()})

    def rows(self, index: Tensor) -> Prefix:
        """Of some rows only."""
        return Prefix({number: (k[index], v[index]) for number, (k, v) in self._layers.items()})

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What attention reads: [n, heads, t, d_head], twice."""
        old_keys, old_values = self._layers[layer_idx]
        return torch.cat([old_keys, keys], -2), torch.cat([old_values, values], -2)


def own(part: Tensor) -> Tensor:
    """The tensor in memory of its own size, so that what it was cut from can go."""
    return part if part.numel() == part.untyped_storage().nbytes() // part.element_size() else part.clone()


def rows_of(value: Any, index: Tensor, n: int) -> Any:
    """The rows ``index`` of whatever has n of them; what all rows share stays as it is."""
    if isinstance(value, Prefix):
        return value.rows(index)
    if isinstance(value, (tuple, list)):
        return type(value)(rows_of(part, index, n) for part in value)
    if isinstance(value, Mapping):
        return {key: rows_of(part, index, n) for key, part in value.items()}
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == n:
        return value[index.to(value.device)]
    return value


def named_arguments(module: nn.Module, call: Call) -> dict[str, Any]:
    """What ``module`` was called with, by parameter name, without the hidden states."""
    signature = inspect.signature(module.forward)
    named = dict(signature.bind(*call.args, **call.kwargs).arguments)
    extra = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    named.update(named.pop(extra, {}) if extra else {})
    return {name: value for name, value in named.items() if value is not call.input}


def joined(parts: Sequence[Any], counts: Sequence[int]) -> Any:
    """What passes of some rows each have seen, as one pass of all rows would have; ``counts`` rows in each.

    What has no rows is taken from the first.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Prefix):
        return Prefix.joined(parts)
    if isinstance(first, (tuple, list)):
        return type(first)(joined(each, counts) for each in zip(*parts))
    if isinstance(first, Mapping):
        return {key: joined([part[key] for part in parts], counts) for key in first}
    if isinstance(first, Tensor) and first.ndim > 1 and first.shape[0] in (1, counts[0]):
        return torch.cat([part.expand(count, *part.shape[1:]) for part, count in zip(parts, counts)])
    return first
