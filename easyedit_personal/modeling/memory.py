"""What to do when memory does not suffice: recognise it, whoever says so, and try half of the work at a time.

CUDA raises an error class of its own, a CPU's allocator a plain RuntimeError, Python MemoryError.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypeVar

import torch

from ..errors import ModelError
from ..progress import log
from .catalog import model_label

T = TypeVar("T")
Done = TypeVar("Done")
# Of torch's allocators for the CPU ("DefaultCPUAllocator: can't allocate memory", "not enough memory: you tried ...")
# and of the libraries under CUDA, which ask for work space of their own.
SAYINGS = ("can't allocate memory", "not enough memory", "out of memory", "cublas_status_alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in SAYINGS)


def in_halves(work: Callable[[Sequence[T]], Done], items: Sequence[T], what: str, model: Any) -> list[Done]:
    """``work`` on all items at once; on half of them at a time wherever memory does not suffice, and so on.

    Args:
        work: must leave nothing behind when it raises.
        items: at least one.
        what: their name in what is logged, plural.
        model: that is at work, to be named where one item does not fit.

    Returns:
        What ``work`` gave for each part, parts in the order of the items.

    Raises:
        ModelError: memory does not suffice for one item.
    """
    done = _attempt(lambda: work(items))
    if not isinstance(done, str):
        return [*done]
    if len(items) == 1:
        raise too_small(f"one of the {what}", done, model)
    log.warning("%d %s do not fit the memory together; trying half as many", len(items), what)
    middle = len(items) // 2
    return in_halves(work, items[:middle], what, model) + in_halves(work, items[middle:], what, model)


def with_fewer(work: Callable[[int | None], Done], most: int, what: str, model: Any) -> Done:
    """``work(None)``, all at once; where memory does not suffice, anew with half as many at a time, and so on.

    Args:
        work: is told how many it may hold at a time; must leave nothing behind when it raises.
        most: how many ``work(None)`` holds at a time.
        what: their name in what is logged, plural.
        model: that is at work, to be named where one does not fit.

    Raises:
        ModelError: memory does not suffice for one.
    """
    allowed: int | None = None
    while isinstance(done := _attempt(partial(work, allowed)), str):
        if allowed == 1:
            raise too_small(f"one of the {what}", done, model)
        allowed = -(-(allowed or most) // 2)
        log.warning("the memory does not suffice; from the start again with at most %d %s at a time", allowed, what)
    return done[0]


def _attempt(work: Callable[[], Done]) -> tuple[Done] | str:
    """What the work gave, alone in a tuple; what was said where memory did not suffice."""
    try:
        return (work(),)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        said = str(error).strip().splitlines() or [type(error).__name__]
    # Out of the except clause: the traceback kept the tensors of the failed attempt alive.
    free()
    return said[0]


@contextmanager
def enough_for(what: str, model: Any) -> Iterator[None]:
    """Lack of memory inside becomes an error that says for what, and on which model.

    Raises:
        ModelError: the memory does not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise too_small(what, str(error), model) from None


def too_small(what: str, said: str, model: Any) -> ModelError:
    """The error where memory does not suffice.

    Args:
        what: for what, such as "one of the prompts".
        said: what the allocator said.
        model: the model at work, or its name where it could not be loaded.
    """
    named = repr(model) if isinstance(model, str) else model_label(model)
    return ModelError(
        f"The memory does not suffice for {what} (model {named}).",
        got=(said.strip().splitlines() or ["no more was said"])[0][:200],
        cause="other programs use the memory, or the model is too large for the device",
        remedy="free memory, shorten the text, load the model in a smaller type, or use another device",
    )


def free() -> None:
    """Give back what a failed attempt, or one edit, has left, to the device and to the system.

    glibc keeps what large tensors leave in the heap of the thread that freed them: a server that had learned 190 edits
    held 400 MB of it, and 100 MB after this.
    """
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None under other C libraries."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
