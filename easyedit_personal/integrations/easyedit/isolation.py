"""Snapshots around the host's algorithms: whatever they leave in a model, a tokenizer or their own globals goes.

Measured at commit 14cea82: EMMET and ULTRAEDIT keep their edits, LoRA switches on gradient checkpointing, GRACE puts
back a copy of the layer, all of them clear ``requires_grad``, and caches in module globals survive the model.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stdout
from io import TextIOBase
from itertools import chain
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from ...progress import log
from .loading import without_side_effects

TOKENIZER_STATE = ("padding_side", "truncation_side", "pad_token")


@contextmanager
def untouched(model: nn.Module, tokenizer: Any, names: Collection[str] | None = None) -> Iterator[Snapshot]:
    """Model, tokenizer and the host's module globals are bit for bit the same after the block, also after an error.

    Restored are weights and buffers (one copy of them is kept meanwhile), gradients and their flags, the module tree
    with its hooks and attributes, and the configuration.

    Args:
        model, tokenizer: what the host's code is let loose on.
        names: parameters that may change, where that is known; None keeps a copy of everything.
    """
    with ExitStack() as stack:
        stack.callback(_restore_tokenizer, tokenizer, {name: getattr(tokenizer, name) for name in TOKENIZER_STATE})
        stack.callback(_host_globals())
        snapshot = Snapshot(model, names)
        stack.callback(snapshot.restore)
        stack.callback(_structure(model))  # last in, first out: the tree must stand before its tensors are filled
        yield snapshot


@contextmanager
def in_private(seed: int = 0) -> Iterator[None]:
    """The host's code runs in an empty working folder, with its own seed, and what it prints goes to our log."""
    with (
        TemporaryDirectory(prefix="easyedit-") as folder,
        chdir(folder),
        redirect_stdout(_ToLog()),
        without_side_effects(),
    ):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield


class _ToLog(TextIOBase):
    """The host prints a line per optimisation step; they are worth a debug message."""

    def write(self, text: str) -> int:
        if line := text.strip():
            log.debug("easyedit: %s", line)
        return len(text)


def _restore_tokenizer(tokenizer: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if getattr(tokenizer, name) != value:
            setattr(tokenizer, name, value)


class Snapshot:
    """Copies of a model's tensors, with gradients and flags.

    Args:
        model: whose.
        names: parameters and buffers to copy; None copies all.
    """

    def __init__(self, model: nn.Module, names: Collection[str] | None = None) -> None:
        parameters, tensors = list(model.parameters()), [*model.named_parameters(), *model.named_buffers()]
        self.known = {id(tensor) for _, tensor in tensors}
        self.saved = [(t, t.data, t.detach().clone()) for name, t in tensors if names is None or name in names]
        self.flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back; bit for bit."""
        for tensor, storage, original in self.saved:
            tensor.data = storage  # back to the same memory, also after model.half()
            if not torch.equal(storage, original):
                storage.copy_(original)
        for parameter, flag, gradient in self.flags:
            parameter.requires_grad_(flag)
            parameter.grad = gradient

    def changed_bytes(self, model: nn.Module) -> int:
        """Size of the copied tensors that are different by now, and of tensors that ``model`` has besides."""
        changed = [tensor for tensor, _, original in self.saved if not torch.equal(tensor.data, original)]
        added = [tensor for tensor in chain(model.parameters(), model.buffers()) if id(tensor) not in self.known]
        return sum(tensor.numel() * tensor.element_size() for tensor in [*changed, *added])


def _structure(model: nn.Module) -> Callable[[], None]:
    saved = [_attributes(owner) for owner in [*model.modules(), *_configurations(model)]]
    return lambda: _put_all_back(saved)


def _configurations(model: nn.Module) -> list[Any]:
    return [item for name in ("config", "generation_config") if (item := getattr(model, name, None)) is not None]


def _host_globals() -> Callable[[], None]:
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("easyeditor.models.")]
    saved = [_attributes(module) for module in modules]
    return lambda: _put_all_back(saved)


Saved = dict[str, tuple[Any, Any]]
"""Attribute name -> its value and, of a plain container, a shallow copy of its content."""


def _attributes(owner: Any) -> tuple[dict[str, Any], Saved]:
    # Dunders are python's: a module's __builtins__ is everybody's dictionary.
    names = [name for name in vars(owner) if not name.startswith("__")]
    return vars(owner), {name: (vars(owner)[name], _content(vars(owner)[name])) for name in names}


def _content(value: Any) -> Any:
    return value.copy() if type(value) in (dict, OrderedDict, list, set) else None


def _put_all_back(saved: list[tuple[dict[str, Any], Saved]]) -> None:
    for now, before in saved:
        _put_back(now, before)


def _put_back(now: dict[str, Any], before: Saved) -> None:
    for name in [name for name in now if name not in before and not name.startswith("__")]:
        del now[name]
    for name, (value, content) in before.items():
        now[name] = value
        if content is not None and not _same_items(value, content):
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)


def _same_items(value: Any, content: Any) -> bool:
    """Compared by identity: the items may be tensors."""
    if len(value) != len(content):
        return False
    if isinstance(value, set):
        return {id(item) for item in value} == {id(item) for item in content}
    pairs = (
        zip(value.items(), content.items()) if isinstance(value, dict) else zip(enumerate(value), enumerate(content))
    )
    return all(a == b and left is right for (a, left), (b, right) in pairs)
