"""The places of EasyEdit that we hold on to, and the check that they are where they were.

Like pluggy verifying a hook: everything is looked at before anything is touched, and all faults are told at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import HostError, listing
from .loading import Host

Seam = tuple[str, str, Callable[[Any], bool]]
"""Module, dotted name in it, and what must hold of the object there."""


def takes(*names: str) -> Callable[[Any], bool]:
    """The object is callable and has parameters of these names."""

    def check(item: Any) -> bool:
        return callable(item) and set(names) <= set(inspect.signature(item).parameters)

    return check


def _is_registry(item: Any) -> bool:
    return isinstance(item, dict) and all(isinstance(name, str) for name in item)


EDIT = ("prompts", "target_new", "ground_truth", "rephrase_prompts", "locality_inputs", "portability_inputs")
SEAMS: Sequence[Seam] = (
    ("util.alg_dict", "ALG_DICT", _is_registry),
    ("util.alg_dict", "DS_DICT", _is_registry),
    ("editors.editor", "ALG_DICT", _is_registry),
    ("editors.editor", "BatchEditor.is_batchable_method", takes("alg_name")),
    ("editors.editor", "BaseEditor.__init__", takes("self", "hparams")),
    ("editors.editor", "BaseEditor.from_hparams", takes("hparams")),
    ("editors.editor", "BaseEditor.edit", takes(*EDIT, "sequential_edit")),
    ("editors.editor", "BaseEditor.batch_edit", takes(*EDIT, "sequential_edit")),
    ("editors.editor", "BaseEditor.edit_requests", takes("requests", "sequential_edit", "test_generation")),
    ("editors.editor", "restore_after_edit", takes("editor", "edited_model", "weights_copy")),
    ("editors.editor", "make_logs", callable),
    ("editors.editor", "summary_metrics", takes("all_metrics")),
)


def check_seams(host: Host, seams: Sequence[Seam] = SEAMS) -> None:
    """Return if everything that we extend is where it should be.

    Raises:
        HostError: a seam moved; each is named. Nothing was changed.
    """
    faults = [fault for seam in seams if (fault := _fault(host, *seam))]
    if not faults and host.module("editors.editor").ALG_DICT is not host.module("util.alg_dict").ALG_DICT:
        faults = ["editors.editor.ALG_DICT is no longer the dictionary of util.alg_dict"]
    if faults:
        raise HostError(
            f"This version of EasyEdit cannot be extended; {len(faults)} of its seams moved.\n{listing(faults)}",
            got=str(host.location.home),
            cause="another version of EasyEdit than the one this package was written for",
            remedy="use EasyEdit at commit 14cea82 (2026-07-14), or report the seams above to us",
        )


def _fault(host: Host, module: str, name: str, holds: Callable[[Any], bool]) -> str | None:
    try:
        item: Any = host.module(module)
        for part in name.split("."):
            item = getattr(item, part)
    except (HostError, AttributeError):
        return f"{module}.{name} is gone"
    if holds(item):
        return None
    return f"{module}.{name} changed: it is now {_describe(item)}"


def _describe(item: Any) -> str:
    if not callable(item):
        return f"a {type(item).__name__}"
    return f"a callable with {inspect.signature(item)}"
