"""Neutral texts and a base model's own answers, read once up to where edits act: an edit is asked by what lies above.

What is read of a base model whose edits take neurons of its last layer is kept on disk, for other processes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..hparams import PersonalizationHyperParams
from ..kernels.base import frozen
from ..kernels.edited_rows import Change, EditedRows
from ..kernels.neurons import seen_by_edits, takes_neurons
from ..modeling.kept import read_kept, write_kept
from ..modeling.layout import Layout, fingerprint, input_device, tokenizer_fingerprint
from ..modeling.per_model import PerModel
from ..modeling.stats import cache_folder
from ..modeling.tokens import Encoded, encode
from .health import VERSION, HealthBaseline, neutral_pairs


@dataclass(frozen=True, slots=True)
class Reading:
    """Neutral texts and the unedited model's answers, read up to the edited layers.

    Attributes:
        texts: rows whose targets are all tokens but the first.
        places, weights: of the texts' tokens that are looked at, (rows, columns), and how many texts they stand for.
        ids: the tokens there.
        answers: prompts with the unedited model's answers; None where none fits the context.
    """

    texts: EditedRows
    places: tuple[Tensor, Tensor]
    weights: Tensor
    ids: Tensor
    answers: EditedRows | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        layers: tuple[int, ...],
        before: HealthBaseline,
        folder: Path | None,
    ) -> Reading:
        """Read once per model and set of layers; bound to this model, since another with the same weights may go.

        Args:
            folder: where the reading is kept for other processes, if that can be done, see ``EditedRows.kept``.
        """
        layers = layers or (layout.n_layers - 1,)

        def read() -> Reading:
            if folder is None:
                return cls._read(model, tokenizer, layout, layers, before).detached()
            looked_at = (
                VERSION,
                tokenizer_fingerprint(tokenizer),
                layout.rewrite,
                layers,
                before.rows,
                neutral_pairs(),
            )
            path = folder / f"read-{hashlib.sha256(repr(looked_at).encode()).hexdigest()[:16]}.safetensors"
            known, _ = read_kept(path) or ({}, {})
            found = cls._read(model, tokenizer, layout, layers, before, known)
            if not known and (tensors := found.kept()):
                write_kept(path, tensors, {})
            return found.detached()

        settings = (layers, layout.rewrite, before, folder, input_device(model))
        return _READINGS.get(model, tokenizer, read, *settings).on(model)

    @classmethod
    def _read(
        cls,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        layers: Sequence[int],
        before: HealthBaseline,
        known: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Reading:
        def ran(part: str, rows: Sequence[Encoded]) -> EditedRows:
            mine = {name.removeprefix(part): tensor for name, tensor in known.items() if name.startswith(part)}
            return EditedRows(model, tokenizer, layout, rows, layers, known=mine)

        texts = [encode(tokenizer, question, target=answer).ids for question, answer in neutral_pairs()]
        rows = ran("texts.", [Encoded(ids[:1], ids[1:], 0) for ids in texts])
        shared = next(k for k in range(len(min(texts, key=len))) if len({ids[k] for ids in texts}) > 1)
        once = rows.columns + 1 < shared  # what all texts begin with is looked at in the first one
        chosen = (~once | (rows.rows == 0)).nonzero()[:, 0]
        return cls(
            rows,
            (rows.rows[chosen], rows.columns[chosen]),
            torch.where(once, len(texts), 1)[chosen],
            rows.ids[chosen],
            ran("answers.", before.rows) if before.rows else None,
        )

    def kept(self) -> dict[str, Tensor]:
        """What to keep of the reading."""
        parts = {"texts.": self.texts.kept(), "answers.": self.answers.kept() if self.answers else {}}
        return {before + name: tensor for before, part in parts.items() for name, tensor in part.items()}

    def detached(self) -> Reading:
        """The same without a model, which is not kept alive for it."""
        return replace(self, texts=self.texts.detached(), answers=self.answers and self.answers.detached())

    def on(self, model: nn.Module) -> Reading:
        """The same for a model with the same weights."""
        return replace(self, texts=self.texts.on(model), answers=self.answers and self.answers.on(model))

    def perplexity(self, changes: Mapping[int, Change]) -> float:
        """As ``health.perplexity`` of the edited model."""
        costs = F.cross_entropy(self.texts.logits(changes, at=self.places), self.ids, reduction="none")
        loss = float((costs * self.weights).sum() / self.weights.sum())
        return math.exp(min(700.0, loss))

    def begun(self, changes: Mapping[int, Change]) -> list[tuple[int, ...]]:
        """Every answer up to where the edited model leaves it, its token there included; whole where it does not."""
        if self.answers is None:
            return []
        wanted = self.answers.logits(changes).argmax(-1)
        own = self.answers.ids
        found = []
        for row in range(len(self.answers.last_index)):
            mine = self.answers.rows == row
            said, other = own[mine].tolist(), wanted[mine].tolist()
            left = next((k for k in range(len(said)) if said[k] != other[k]), None)
            found.append(tuple(said) if left is None else (*said[:left], other[left]))
        return found


_READINGS: PerModel[Reading] = PerModel()


def kept_in(model: nn.Module, hparams: PersonalizationHyperParams) -> Path | None:
    """Where readings of a base model are kept; None where edits change more than its last steps and take no neurons."""
    return cache_folder(hparams) / fingerprint(model) if takes_neurons(hparams) else None


def read_ahead(model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams) -> Path | None:
    """What the figures of edits of neurons need of a base model; kept in the folder that is returned, else None."""
    folder = kept_in(model, hparams)
    if folder is None:
        return None
    with frozen(model), torch.no_grad():
        before = HealthBaseline.of(model, tokenizer, folder)
        layout = seen_by_edits(model, hparams)
        Reading.of(model, tokenizer, layout, tuple(sorted(hparams.layers)), before, folder)
    return folder
