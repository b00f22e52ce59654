"""Data sets: records and their validation, UPQA and PrefEval readers, distractor turns, and our own bundled sets.

Nothing is imported here until it is asked for, so that `python -m easyedit_personal.data.bundle` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "UPQADataset": "upqa",
    "UPQAItem": "records",
    "collate_fn": "upqa",
    "PrefEvalRecord": "prefeval",
    "load_prefeval": "prefeval",
    "distractor_turns": "conversations",
    "load_conversations": "conversations",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - names are resolved by __getattr__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
