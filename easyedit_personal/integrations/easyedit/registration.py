"""``register()`` makes EasyEdit know our editor and data set; ``unregister()`` takes everything back.

Only objects in memory are touched: two registries, one predicate, ``BaseEditor``'s constructor, and the functions
that drop log files into the working folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack, chdir, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

from ...errors import HostError
from ...hparams import ALG_NAME
from .host_checks import check_seams
from .loading import Host, load_host

DATASET = "upqa"
LOG_VARIABLE = "EASYEDIT_LOGS"
# The host's editor modules; each has its own function that creates ./logs and most of them write results there.
EDITOR_MODULES = ("editor", "multimodal_editor", "per_editor", "concept_editor", "safety_editor", "steer_editor")
DROPS_FILES = ("make_logs", "summary_metrics")


@dataclass(frozen=True, slots=True)
class Registration:
    """What ``register()`` did.

    Attributes:
        home: the checkout of EasyEdit that was extended.
        algorithm: the name in ``ALG_DICT``; batchable, too.
        dataset: the name in ``DS_DICT``.
        logs: the folder in which the host now creates its ``logs/``.
        already: nothing was left to do.
    """

    home: Path
    algorithm: str
    dataset: str
    logs: Path
    already: bool = False

    def __str__(self) -> str:
        verb = "was already registered" if self.already else "is registered"
        return (
            f"{self.algorithm} {verb} with EasyEdit at {self.home}: algorithm (single and batch), "
            f"data set {self.dataset!r}; its log files go to {self.logs / 'logs'}"
        )


@dataclass(slots=True)
class _Active:
    """The registration in force: its report and how to undo it."""

    report: Registration
    undo: ExitStack


_active: _Active | None = None


def register(log_dir: str | Path | None = None, *, quiet: bool = False) -> Registration:
    """Add PersonalizationEditor and UPQADataset to EasyEdit, and say so.

    Calling it again changes nothing but the log folder, if another one is given.

    Args:
        log_dir: folder in which the host may create its ``logs/`` (its log and all results, user text in clear);
            default: the environment's EASYEDIT_LOGS, else a folder of this user's cache.
        quiet: do not print the report.

    Raises:
        HostError: EasyEdit is not there, or this version cannot be extended; nothing was changed.
    """
    global _active
    if _active is not None and log_dir is not None and Path(log_dir).absolute() != _active.report.logs:
        unregister()
    if _active is None:
        host = load_host()
        check_seams(host)
        report = Registration(host.location.home, ALG_NAME, DATASET, log_folder(log_dir))
        _active = _Active(report, _extend(host, report))
    else:
        report = replace(_active.report, already=True)
    if not quiet:
        print(report)
    return report


def unregister() -> bool:
    """Undo ``register()``; True when there was something to undo."""
    global _active
    if _active is None:
        return False
    active, _active = _active, None
    active.undo.close()
    return True


def log_folder(chosen: str | Path | None = None) -> Path:
    """Where the host's files go: the caller's choice, the environment's, or this user's cache; never silently here."""
    named = chosen or os.environ.get(LOG_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("easyedit-personal") / "easyedit"


def _extend(host: Host, report: Registration) -> ExitStack:
    from ...data.upqa import UPQADataset
    from ...editing.algorithm import apply_personalization_to_model
    from .base_editor import constructor

    registries, editor = host.module("util.alg_dict"), host.module("editors.editor")
    with ExitStack() as stack:
        _put(stack, registries.ALG_DICT, report.algorithm, apply_personalization_to_model)
        _put(stack, registries.DS_DICT, report.dataset, UPQADataset)
        batchable = editor.BatchEditor.is_batchable_method
        _set(stack, editor.BatchEditor, "is_batchable_method", staticmethod(_also_ours(batchable)))
        _set(stack, editor.BaseEditor, "__init__", constructor(editor.BaseEditor))
        for module in EDITOR_MODULES:
            with suppress(HostError):  # only the first is a seam
                _send_files_to(report.logs, host.module(f"editors.{module}"), stack)
        undo = stack.pop_all()
    return undo


def _put(stack: ExitStack, registry: MutableMapping[str, Any], name: str, item: Any) -> None:
    before = dict(registry)

    def restore() -> None:
        registry.pop(name, None)
        if name in before:
            registry[name] = before[name]

    stack.callback(restore)
    registry[name] = item


def _set(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    # vars() and not getattr(): a staticmethod must come back as one.
    stack.callback(setattr, owner, name, vars(owner)[name])
    setattr(owner, name, value)


def _also_ours(batchable: Callable[[str], bool]) -> Callable[[str], bool]:
    @wraps(batchable)
    def is_batchable_method(alg_name: str) -> bool:
        return alg_name == ALG_NAME or batchable(alg_name)

    return is_batchable_method


def _send_files_to(folder: Path, module: Any, stack: ExitStack) -> None:
    """Let one editor module of the host write under ``folder``, with one pair of log handlers instead of two more
    for every editor that is built."""
    stack.callback(_close_handlers, module.LOG)
    stack.callback(module.LOG.setLevel, module.LOG.level)
    module.LOG.setLevel(logging.INFO)  # as the host wants it; it used to set the root logger's level for that
    for name in DROPS_FILES:
        if name in vars(module):
            _set(stack, module, name, _inside(folder, vars(module)[name]))
    make_logs = module.make_logs
    _set(stack, module, "make_logs", lambda: None if module.LOG.handlers else make_logs())


def _close_handlers(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def _inside(folder: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    """The host writes to ./logs whatever one does: let these functions run in another working folder."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with chdir(folder):
            return function(*args, **kwargs)

    return wrapper
