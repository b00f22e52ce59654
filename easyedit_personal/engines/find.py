"""From ``--engine`` to an engine: ``serial``, ``processes``, ``ray`` or ``ray://head:10001``."""

from __future__ import annotations

from ..registry import ENGINES
from .base import Engine, Limits

TIME_LIMIT = 600.0  # seconds per item, where workers can be ended


def find_engine(name: str, limits: Limits | None = None) -> Engine:
    """The engine of that name.

    Args:
        name: "serial", "processes", "ray" (a cluster that this machine belongs to, else one of its own), or the
            address of a Ray cluster.
        limits: patience; None takes the defaults, with a time limit where workers can be ended.

    Raises:
        RegistryError: there is no such engine.
        ConfigError: the engine cannot do what is asked.
        MissingDependencyError: Ray is not installed.
    """
    kind, separator, rest = name.partition("://")
    made = ENGINES.get(kind)
    if limits is None:
        limits = Limits(seconds=None if kind == "serial" else TIME_LIMIT)
    return made(limits, f"{kind}{separator}{rest}" if separator else None)
