"""Honest evaluation: which questions are asked, how answers are made and scored, and what the figures are worth.

Answers run to their natural stop and are kept, so that every score can be computed again without the model.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "evaluate": "run",
    "rescore": "run",
    "Plan": "plan",
    "PROTOCOLS": "protocol",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
