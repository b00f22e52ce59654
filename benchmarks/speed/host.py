"""EasyEdit's own functions, made ready so that only their work is timed: no imports, snapshots or statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from easyedit_personal.errors import HostError, MissingDependencyError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.integrations.easyedit import find_host
from easyedit_personal.integrations.easyedit.host_kernels import Factors, prepared
from easyedit_personal.types import EditRequest


def need_host() -> None:
    """Say so before any work when there is no EasyEdit.

    Raises:
        MissingDependencyError: EASYEDIT_HOME leads nowhere.
    """
    try:
        find_host()
    except HostError as error:
        raise MissingDependencyError(
            "This case runs beside EasyEdit, and EASYEDIT_HOME is not set or leads nowhere.",
            needed="EASYEDIT_HOME=<a checkout of github.com/zjunlp/EasyEdit>",
            cause=error.what,
        ) from None


@contextmanager
def host_kernel(
    name: str, model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> Iterator[Callable[[Sequence[EditRequest]], Factors]]:
    """``execute(requests)`` runs the host's ``execute_rome`` (one request) or ``execute_memit``.

    Context sentences and second moments are in the host's caches; the model is as it was after the block.

    Args:
        name: "rome" or "memit".
        requests: all that will be asked for.
    """
    with prepared(name, model, tokenizer, requests, hparams) as execute:
        yield execute
