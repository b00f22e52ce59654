"""Look at what passes through modules, and put something else in its place.

transformers 5 returns a bare Tensor from most decoder layers and a tuple from some (GPT-J): callers here always see
the hidden states, and a replaced output keeps the shape that the module gave it. Hooks are removed on every way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from .layout import get_module


class _Stop(Exception):
    """Ends a forward pass early; never leaves ``trace``."""


@dataclass(slots=True)
class Call:
    """What one module was called with and what it gave back; the last call counts.

    Attributes:
        args, kwargs: the arguments as given, hidden states included.
        output: the hidden states that came out; a copy, since some models (Falcon) add to them in place later.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    @property
    def input(self) -> Tensor:
        """The hidden states that went in: the first tensor argument, by position or as ``hidden_states``."""
        candidates = [*self.args, self.kwargs.get("hidden_states"), *self.kwargs.values()]
        return next(value for value in candidates if isinstance(value, Tensor))


def hidden_of(output: Any) -> Tensor:
    """The hidden states in a module's output: the tensor itself, or the first part of a tuple."""
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def trace(model: nn.Module, paths: Sequence[str], *, stop: bool = False) -> Iterator[dict[str, Call]]:
    """``with trace(model, paths) as calls: model(...)`` then ``calls[path].input`` and ``.output``.

    Args:
        model: any module.
        paths: module paths to watch.
        stop: end the forward pass as soon as every path was called; the rest of the ``with`` block is skipped.

    Raises:
        ModelError: a path names no module; or the block ended and a module was never called.
    """
    calls: dict[str, Call] = {}
    with ExitStack() as hooks:
        for path in paths:
            hooks.enter_context(_watch(get_module(model, path), path, calls, len(set(paths)) if stop else None))
        with suppress(_Stop):
            yield calls
    for path in paths:
        if path not in calls:
            raise ModelError(f"The module {path!r} was never called in the forward pass.", cause="a wrong path")


@contextmanager
def _watch(module: nn.Module, path: str, calls: dict[str, Call], stop_after: int | None) -> Iterator[None]:
    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls[path] = Call(args, kwargs, hidden_of(output).clone())
        if len(calls) == stop_after:
            raise _Stop

    handle = module.register_forward_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replacing(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, the module's hidden states leave it as ``change(hidden states)``.

    ``change`` must not write into its argument: it may be a view that others read.
    """

    def swap(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output)
        return (change(output[0]), *output[1:])

    handle = module.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()
