"""Python files of one's own that add kernels, evaluators and so on: named in the environment, imported once.

The environment reaches the workers of an engine, too; an installed package needs no such file (see ``registry``).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from .progress import log

VARIABLE = "EASYEDIT_PERSONAL_PLUGINS"  # paths, separated as in PATH
_faults: dict[str, str | None] = {}


def import_plugins() -> None:
    """Import the files that VARIABLE names, each once; one that fails is logged, and the others work."""
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if path not in _faults:
            _faults[path] = None  # before it runs, since it may ask a registry itself
            try:
                _import(Path(path))
            except Exception as error:  # whatever a stranger's module raises while it is imported
                _faults[path] = f"{type(error).__name__}: {error}"
                log.warning("The plugin %s cannot be imported: %s", path, _faults[path])


def plugin_faults() -> dict[str, str | None]:
    """The files that were imported, each with what went wrong, or None."""
    import_plugins()
    return dict(_faults)


def _import(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    spec = importlib.util.spec_from_file_location(f"plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("this is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic, dataclasses and pickle look for the module of a class
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
