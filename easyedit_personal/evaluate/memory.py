"""Peak memory: of the GPU where the model is there, else of the process, as Linux counts it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch
from torch import nn

from ..modeling.layout import input_device

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Begin a new measurement, where the system allows it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _CLEAR.write_text("5")  # resets the high-water mark of resident memory
    except OSError:
        return


def peak_mib(model: nn.Module) -> float:
    """Highest memory since ``reset_peak``, in MiB; where that cannot be reset, since the process began."""
    device = input_device(model)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (2**20 if sys.platform == "darwin" else 1024)
