"""easyedit-personal: every user of a language model gets their own copy of it, as a file of a few kilobytes.

Public names are loaded on first use; importing the package does nothing else.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
DEFAULT_MODEL = "smollm2"  # of every command, and of settings that name none

_PUBLIC = {
    "EditRequest": "types",
    "EditResult": "types",
    "Preference": "types",
    "WeightDelta": "types",
    "PersonalizationError": "errors",
    "PersonalizationHyperParams": "hparams",
    "PreferenceClusterer": "clustering.cluster",
    "UPQADataset": "data.upqa",
    "apply_personalization_to_model": "editing.algorithm",
    "PersonalizationEditor": "editing.editor",
    "PersonalizedModel": "serving.personalized",
    "resolve_settings": "settings.resolve",
    "edit_many": "editing.many",
    "edited": "kernels.beside",
    "generate": "generation.generate",
    "understand": "statements.parser",
    "Statement": "statements.records",
    "EditStore": "store",
    "register": "integrations.easyedit",
    "unregister": "integrations.easyedit",
}
__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604 - names are resolved by __getattr__


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
