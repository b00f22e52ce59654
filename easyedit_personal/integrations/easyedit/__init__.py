"""EasyEdit as the host: this sub-package is the only place that imports ``easyeditor``.

Importing it imports nothing of EasyEdit; ``register()`` does, without letting its import's side effects out.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "EditorStatus": "availability",
    "Host": "loading",
    "HostMethod": "host_methods",
    "Registration": "registration",
    "find_host": "locate",
    "host_method": "host_methods",
    "host_method_names": "host_methods",
    "load_host": "loading",
    "register": "registration",
    "unregister": "registration",
    "usable_editors": "availability",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
