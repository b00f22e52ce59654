"""The kernel protocol, and what every kernel does before it starts: check the requests and encode them.

Kernels compute, ``apply`` touches: whatever a kernel does in between, the model is bit for bit as before when it
returns or raises.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import ModelError, PersonalizationError, RequestError, listing
from ..hparams import PersonalizationHyperParams
from ..modeling.catalog import model_label
from ..modeling.layout import context_limit as context_limit  # re-exported: every kernel asks for it
from ..modeling.tokens import Encoded, encode
from ..types import EditRequest, WeightDelta


class Kernel(Protocol):
    """Computes the update that makes a model answer every request's prompt with its target.

    Args:
        model: a causal language model; bit for bit the same afterwards, also when the kernel raises.
        tokenizer: its tokenizer.
        requests: the phrases; those of one preference share ``cluster`` and target.
        hparams: the settings.

    Returns:
        One ``WeightDelta`` per edited matrix.

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
    """

    def __call__(
        self,
        model: nn.Module,
        tokenizer: Any,
        requests: Sequence[EditRequest],
        hparams: PersonalizationHyperParams,
    ) -> list[WeightDelta]: ...


def encode_requests(
    tokenizer: Any,
    requests: Sequence[EditRequest],
    hparams: PersonalizationHyperParams,
    limit: int | None = None,
) -> list[Encoded]:
    """Encode all requests, target and end of turn included, or report every faulty one at once.

    Args:
        limit: the model's context in tokens; longer rows are faults.

    Raises:
        RequestError: there are no requests, or some are faulty; each fault names its request's number.
    """
    if not requests:
        raise RequestError("There is nothing to edit: the list of requests is empty.")
    rows, faults = [], []
    for number, request in enumerate(requests):
        try:
            row = encode_request(tokenizer, request, hparams)
            if limit is not None and len(row.ids) > limit:
                raise RequestError(f"{len(row.ids)} tokens do not fit the model's context of {limit}.")
            rows.append(row)
        except PersonalizationError as error:
            owner = f" of user {request.user!r}" if request.user else ""
            faults.append(f"request {number}{owner}: {error}")
    if faults:
        raise RequestError(f"{len(faults)} of {len(requests)} requests cannot be carried out.\n{listing(faults)}")
    return rows


def encode_request(tokenizer: Any, request: EditRequest, hparams: PersonalizationHyperParams) -> Encoded:
    """One phrase with its target, end of turn included where ``end_of_turn`` says so."""
    subject = request.subject if hparams.fact_token == "subject_last" else None
    return encode(
        tokenizer,
        request.prompt,
        target=request.target_new,
        subject=subject,
        prompt_format=hparams.prompt_format,
        history=[message for turn in request.history for message in _exchange(*turn)],
        end_of_turn=hparams.end_of_turn,
    )


def _exchange(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def group_by_cluster(requests: Sequence[EditRequest]) -> list[list[int]]:
    """Indices of the requests that belong to the same preference, in order of first appearance."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        groups[("alone", number) if request.cluster is None else request.cluster].append(number)
    return list(groups.values())


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients inside, everything as before outside.

    Training flags, ``requires_grad`` and ``.grad`` of every parameter are restored, also after an exception.

    Raises:
        ModelError: weights are on device "meta": there is nothing to compute with.
    """
    if missing := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ModelError(
            f"{len(missing)} weights of the model {model_label(model)} are not loaded (device 'meta').",
            got=missing[0],
            cause="an empty model, or a device_map that left weights on disk",
            remedy="load all weights, or edit a copy that fits the memory and apply the factors here",
        )
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    for parameter in flags:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode
