"""LoRA through PEFT, trained on the same phrases: the usual way to give somebody a model of their own.

The adapter is taken off again and handed on as ``WeightDelta``s, which are the same product of two factors; so it is
applied and undone exactly as our own edits are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..data.records import UPQAItem
from ..hparams import LoraParams, PersonalizationHyperParams
from ..kernels.apply import in_weights
from ..kernels.base import context_limit, encode_requests, frozen
from ..modeling.families import family_of
from ..modeling.layout import input_device
from ..modeling.tokens import Batch, collate
from ..types import EditRequest, WeightDelta
from .base import Session


class Lora:
    """PEFT's LoRA on the projections that PEFT takes by default for the family (query and value in Llama).

    Args:
        hparams: prompt format and end of turn, as for the kernels.
        settings: rank, alpha, steps and rate; None takes the paper's.
    """

    name = "lora"
    edits = True

    def __init__(self, hparams: PersonalizationHyperParams | None = None, settings: LoraParams | None = None) -> None:
        self.hparams, self.settings = hparams or PersonalizationHyperParams(), settings or LoraParams()

    def prepare(self, items: Sequence[UPQAItem], seed: int) -> None:
        """Nothing to prepare."""

    @contextmanager
    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> Iterator[Session]:
        """A session on the adapted model; all preferences are trained together."""
        requests = [request for item in preferences for request in item.requests(cluster_size)]
        deltas = self.train(model, tokenizer, requests)
        with in_weights(model, deltas):
            yield Session(model, deltas=deltas, nbytes=sum(delta.nbytes for delta in deltas))

    def train(self, model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """The trained adapter as factors; the model is bit for bit as before.

        Raises:
            RequestError: a request cannot be carried out.
        """
        from peft import LoraConfig, get_peft_model

        rows = encode_requests(tokenizer, requests, self.hparams, context_limit(model))
        batch = collate(rows, tokenizer, device=input_device(model))
        family = family_of(model)
        config = LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
            target_modules=list(family.lora_targets) or None,
            fan_in_fan_out=family.fan_in_fan_out,
        )
        devices = [input_device(model)] if input_device(model).type == "cuda" else []
        with frozen(model), torch.random.fork_rng(devices):
            torch.manual_seed(self.hparams.seed)
            wrapped: Any = get_peft_model(model, config)
            try:
                self._fit(wrapped, batch)
                return _factors(wrapped)
            finally:
                wrapped.unload()
                vars(model).pop("peft_config", None)

    def _fit(self, wrapped: nn.Module, batch: Batch) -> None:
        weights = [parameter for name, parameter in wrapped.named_parameters() if "lora_" in name]
        for weight in weights:
            weight.requires_grad_(True)
        optimizer = torch.optim.AdamW(weights, lr=self.settings.lr, weight_decay=0.0)
        rows, columns, ids = batch.targets()
        for _ in range(self.settings.steps):
            logits = wrapped(**batch.model_inputs()).logits[rows, columns]
            loss = F.cross_entropy(logits.float(), ids)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _factors(wrapped: Any) -> list[WeightDelta]:
    """Every adapted layer's B (with the scale in it) and A, under the base model's module path."""
    deltas = []
    for path, module in wrapped.get_base_model().named_modules():
        if getattr(module, "lora_A", None):
            left = module.lora_B["default"].weight.detach() * module.scaling["default"]
            deltas.append(WeightDelta(path, left.clone(), module.lora_A["default"].weight.detach().clone()))
    return deltas
