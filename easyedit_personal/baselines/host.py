"""Somebody else's editor as a method: anything that edits a model inside a ``with`` block, such as EasyEdit's.

What such an editor keeps for a user is not known as factors: it is counted as the weights that it changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from ..data.records import UPQAItem
from ..hparams import PersonalizationHyperParams
from .base import Session

Editor = Callable[[nn.Module, Any, Sequence[Any], PersonalizationHyperParams], AbstractContextManager[Any]]


class HostEditor:
    """A foreign editor with our requests.

    Args:
        name: under which results are kept, for example "easyedit:ROME".
        editor: ``editor(model, tokenizer, requests, hparams)`` gives a context manager that yields the edited model
            and leaves nothing behind.
        hparams: prompt format, end of turn and seed, as for our kernels.
    """

    edits = True

    def __init__(self, name: str, editor: Editor, hparams: PersonalizationHyperParams) -> None:
        self.name, self.editor, self.hparams = name, editor, hparams

    def prepare(self, items: Sequence[UPQAItem], seed: int) -> None:
        """Nothing to prepare."""

    @contextmanager
    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> Iterator[Session]:
        """A session on whatever model the editor hands out."""
        requests = [request for item in preferences for request in item.requests(cluster_size)]
        before = parameter_digests(model)
        with self.editor(model, tokenizer, requests, self.hparams) as changed:
            # An editor that counts by itself also knows weights that only got another name, as PEFT gives them.
            yield Session(changed, nbytes=getattr(self.editor, "nbytes", 0) or changed_bytes(changed, before))


@torch.no_grad()
def parameter_digests(model: nn.Module) -> dict[str, str]:
    """SHA-256 of every parameter's bytes."""
    digests = {}
    for name, tensor in model.named_parameters():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digests[name] = hashlib.sha256(raw.numpy().tobytes()).hexdigest()
    return digests


def changed_bytes(model: nn.Module, before: dict[str, str]) -> int:
    """Size of the parameters that are new or differ from before."""
    after = parameter_digests(model)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in model.named_parameters()}
    return sum(sizes[name] for name, digest in after.items() if before.get(name) != digest)
