"""Import EasyEdit so that nothing of its import leaks: no seed, no logging, no environment, no file.

Measured at commit 14cea82: importing any part of it resets python's, numpy's and torch's random state to seed 42,
puts an INFO handler on the root logger and makes every CUDA call synchronous.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from ...errors import HostError
from .locate import Location, find_host
from .stubs import stand_ins_for

# The host's modules set it to "1", which slows every GPU program down.
HOST_VARIABLES = ("CUDA_LAUNCH_BLOCKING",)


@dataclass(frozen=True)
class Host:
    """EasyEdit, imported.

    Attributes:
        location: where it lies.
        absent: packages it imports that are not installed, and which of its modules import them.
    """

    location: Location
    absent: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def module(self, name: str) -> ModuleType:
        """A module of the host by its path inside ``easyeditor``, e.g. "models.rome.rome_main".

        Attribute access would be wrong: the host overwrites ``easyeditor.models`` with ``easyeditor.trainer.models``.

        Raises:
            HostError: this version of the host has no such module.
        """
        try:
            return importlib.import_module(f"easyeditor.{name}")
        except ModuleNotFoundError as error:
            raise HostError(
                f"This EasyEdit has no module easyeditor.{name}.",
                got=str(self.location.home),
                cause="another version of EasyEdit moved it",
                remedy="use EasyEdit at commit 14cea82 (2026-07-14)",
            ) from error


_loaded: Host | None = None


def load_host() -> Host:
    """Import EasyEdit once, without the optional packages that are absent; later calls return the same host.

    Random state, root logger, environment, warning filters and import path are as before afterwards, and no
    ``__pycache__`` is written into the checkout.

    Raises:
        HostError: it is not there, or its import fails.
    """
    global _loaded
    if _loaded is None or "easyeditor" not in sys.modules:
        location = find_host()
        _loaded = Host(location) if "easyeditor" in sys.modules else Host(location, _import(location))
    return _loaded


def _import(location: Location) -> Mapping[str, frozenset[str]]:
    _import_neighbours()
    before = set(sys.modules)
    try:
        with without_side_effects(), _on_path(location.home), stand_ins_for(location.package) as absent:
            importlib.import_module("easyeditor")
            importlib.import_module("easyeditor.util.alg_dict")
    except Exception as error:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "easyeditor":
                del sys.modules[name]
        raise HostError(
            f"EasyEdit at {location.home} cannot be imported: {type(error).__name__}: {error}",
            cause="another version of EasyEdit, or a package that it imports is broken",
            remedy="use EasyEdit at commit 14cea82 (2026-07-14), or update the package that is named",
        ) from error
    return {package: frozenset(users) for package, users in sorted(absent.items())}


def _import_neighbours() -> None:
    """Import what the host imports too, so that what *these* set up is not taken for the host's doing."""
    with suppress(ImportError):
        import peft  # noqa: F401
        import sklearn  # noqa: F401
        from transformers import AutoProcessor  # noqa: F401


@contextmanager
def without_side_effects() -> Iterator[None]:
    """Random state, root logger, environment and warning filters are the same after the block as before."""
    root = logging.getLogger()
    level, handlers, filters = root.level, list(root.handlers), list(root.filters)
    environment = {name: os.environ.get(name) for name in HOST_VARIABLES}
    write_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with same_random_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and deprecations of the host's; not ours to mend
            yield
    finally:
        sys.dont_write_bytecode = write_bytecode
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def same_random_state() -> Iterator[None]:
    """Python's, numpy's and torch's generators go on after the block as if it had not been."""
    python, legacy_numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        elif torch.cuda.is_available():
            # Seeds given before CUDA starts are queued; this queues the one that was in force.
            torch.cuda.manual_seed_all(torch.initial_seed())


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))
