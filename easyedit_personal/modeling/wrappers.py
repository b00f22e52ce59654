"""Models inside of others: ``torch.compile`` and data parallelism call the same weights through a second module.

Edits are computed and applied inside, where every module has its own name; the wrapper sees them, since the weights are
the same. A compiled model's graphs read weights anew at every call.
"""

from __future__ import annotations

from torch import nn

INSIDE = ("_orig_mod", "module")  # torch.compile's; DistributedDataParallel's and DataParallel's


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that carries the configuration, from however many wrappers around it; itself where there are none."""
    while not hasattr(model, "config") or "_orig_mod" in model._modules:
        inner = next((model._modules[name] for name in INSIDE if name in model._modules), None)
        if inner is None:
            break
        model = inner
    return model
