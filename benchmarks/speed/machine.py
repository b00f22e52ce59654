"""What a piece of work costs: seconds, floating-point operations, memory; and what the machine could do at best."""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from easyedit_personal.evaluate.memory import peak_mib, reset_peak

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Cost:
    """What one run took.

    Attributes:
        gflop: matrix products and attention, in 10^9 multiplications and additions; solves are not counted.
        peak_mib: highest resident memory above what there was before, in MiB.
        result: what the run returned.
    """

    gflop: float
    peak_mib: float
    result: Any


class _Counter(TorchDispatchMode):
    """Adds up the operations of matrix products as they are dispatched, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flop += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif packet == ATTENTION:
            self.flop += _attention(args[0], args[1])
        elif packet == ATTENTION_BACKWARD:
            self.flop += _attention(args[1], args[2]) * 5 // 2
        return out


def _attention(query: torch.Tensor, key: torch.Tensor) -> int:
    """Q K^T and P V, for queries [n, heads, t, d] and keys [n, heads, s, d]."""
    return 4 * math.prod(query.shape) * key.shape[-2]


def cost(run: Callable[[], Any], model: Any) -> Cost:
    """Run once, counting; also serves as the warm-up."""
    tidy()
    reset_peak()
    before = resident_mib()
    with _Counter() as counter:
        result = run()
    return Cost(counter.flop / 1e9, max(0.0, peak_mib(model) - before), result)


def tidy() -> None:
    """Give freed memory back to the system, so that the next peak is the next run's own."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_mib() -> float:
    """This process's resident memory now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def finish(model: Any) -> None:
    """Wait until the model's device has done what it was told."""
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()


def multiplication_rate(device: str = "cpu", size: int = 1024, repeats: int = 8) -> float:
    """GFLOP per CPU second (on a GPU: per second) of large float32 matrix products.

    The best of several, as others only slow it down.
    """
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    wait = torch.cuda.synchronize if a.is_cuda else lambda: None
    clock = time.perf_counter if a.is_cuda else time.process_time
    times = []
    for _ in range(repeats):
        wait()
        start = clock()
        a @ b
        wait()
        times.append(clock() - start)
    return 2 * size**3 / min(times) / 1e9


def thin_rate(rows: int, inner: int = 768, outer: int = 3072, repeats: int = 24) -> float:
    """The same for products of ``rows`` tokens with one weight after another, as a model of that width makes them.

    Each product reads another weight: those of a model do not stay in the cache.
    """
    weights = [torch.randn(inner, outer) for _ in range(repeats)]
    tokens = torch.randn(rows, inner)
    tokens @ weights[0]
    start = time.process_time()
    for weight in weights:
        tokens @ weight
    return 2 * rows * inner * outer * repeats / (time.process_time() - start) / 1e9


def setup(device: str = "cpu") -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "threads": torch.get_num_threads(),
        "matmul_gflop_per_s": round(multiplication_rate(device), 1),
        "thin_matmul_gflop_per_s": {rows: round(thin_rate(rows), 1) for rows in (16, 64, 256)},
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
