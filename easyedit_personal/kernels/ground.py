"""What all edits of a model share, computed once and kept on disk: what ordinary answers look like where edits act.

A metric of keys (what a direction costs), the Fisher information of outputs (what changing an answer costs), keys at
which an edit keeps quiet, and what the unedited model answers to the contrasts and to small talk.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.material import BUNDLED
from ..hparams import PersonalizationHyperParams
from ..modeling.kept import Tensors, kept
from ..modeling.layout import Layout, fingerprint, tokenizer_fingerprint
from ..modeling.stats import cache_folder
from .contrasts import fitting
from .factors import Factors, Space, Update, towards
from .ground_numbers import compute
from .kinds import Contrast, shared_contrasts
from .neurons import Neurons, activation, constant_direction
from .preserve import Material

VERSION = "10"  # of what is kept; files of other versions are not read
LOOKED_AT = {
    "through",
    "contrasts",
    "ordinary",
    "answer_tokens",
    "ridge",
    "ordinary_weight",
}  # the settings that shape the ground
MODELS_KEPT = 2
_GROUNDS: OrderedDict[str, Ground] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Ground:
    """Shared numbers of one model, one set of layers and one set of settings.

    Notation: d_in a key's width, d_out an output's.

    Attributes:
        folder: where gates of the same model are kept, too.
        base: fingerprint of the model that this was computed from, edited layers and all.
        metric: P [d_in, d_in] by layer: whitens keys, and vanishes on those of the chat template's beginning.
        root: G^(1/2) [d_out, d_out] by layer; |root @ change|^2 / 2 is about the KL divergence that a change causes.
        ordinary: keys [n, d_in] along ordinary answers, by layer.
        firsts: keys [n, d_in] where the answers to the contrasts begin, by layer, in the order of ``contrasts``.
        begun: keys [n, d_in] at the ends of the beginnings of every kind's answers, by layer.
        begun_groups: whose they are.
        contrasts: the shared contrasts.
        answers: the unedited model's first tokens by contrast.
        talk: exchanges that have nothing to do with any preference.
        rows: what the model made of the contrasts, see ``contrasts.kept_of``; it holds for the model ``base`` alone.
        order: numbers of an MLP's neurons by layer, those that matter least first; empty unless edits take neurons.
    """

    folder: Path
    base: str
    metric: dict[int, Tensor]
    root: dict[int, Tensor]
    ordinary: dict[int, Tensor]
    firsts: dict[int, Tensor]
    begun: dict[int, Tensor]
    begun_groups: list[str | None]
    contrasts: list[Contrast]
    answers: dict[Contrast, tuple[int, ...]]
    talk: list[tuple[str, str]]
    rows: Tensors
    order: dict[int, list[int]]

    def start(
        self,
        model: nn.Module,
        layout: Layout,
        layer: int,
        roles: Sequence[Tensor],
        others: Sequence[Tensor],
        outputs: Tensor,
    ) -> Update:
        """An update that adds nothing yet, and tells keys [n, d_in] of every role from those of others.

        Args:
            others: keys [n, d_in] that each role is told from.
            outputs: the unedited outputs [n, d_out] of the roles; their size is the unit.
        """
        device, width = outputs.device, outputs.shape[1]
        space = Space(self.metric[layer].to(device), float(outputs.square().mean().sqrt()))
        here, there = (
            space.whitened(torch.stack([keys.to(device).mean(0) for keys in some])) for some in (roles, others)
        )
        if not self.order:
            return Factors(space, torch.zeros(width, len(here), device=device), towards(here, there))
        const = self.const(layer)
        return Neurons.towards(space, here, there, width, const, activation(model, layout, layer))

    def const(self, layer: int) -> Tensor:
        """The direction [d_model] along which an MLP's inputs are nearly constant, see ``neurons``."""
        return constant_direction(self.metric[layer], torch.cat([self.ordinary[layer], self.firsts[layer]]))


def prepare(model: nn.Module, tokenizer: Any, layout: Layout, hparams: PersonalizationHyperParams) -> Ground:
    """The shared numbers: from memory, from the disk, or computed now and kept.

    Args:
        model: unedited, frozen and in evaluation mode.
        hparams: ``layers``, ``natural``, ``preserve.file``, ``prompt_format``, ``seed``; kept in ``stats_dir``.
    """
    folder = _folder(model, tokenizer, layout, hparams)
    ground = _GROUNDS.get(str(folder))
    if ground is None:
        material = Material.load(hparams.preserve.file)
        drawn = shared_contrasts(material, hparams.natural.contrasts, hparams.seed)
        contrasts = fitting(model, tokenizer, drawn, hparams)

        def work() -> tuple[Tensors, dict[str, Any]]:
            tensors, values = compute(model, tokenizer, layout, hparams, contrasts, material)
            return tensors, {**values, "base": fingerprint(model)}

        ground = _GROUNDS[str(folder)] = _ground(folder, kept(folder / "ground.safetensors", work), contrasts, hparams)
    _GROUNDS.move_to_end(str(folder))
    while len(_GROUNDS) > MODELS_KEPT:
        _GROUNDS.popitem(last=False)
    return ground


def _ground(
    folder: Path,
    content: tuple[Tensors, dict[str, Any]],
    contrasts: list[Contrast],
    hparams: PersonalizationHyperParams,
) -> Ground:
    tensors, values = content
    by_layer = lambda name: {layer: tensors[f"{name}.{layer}"].float() for layer in hparams.layers}
    answers = {contrast: tuple(ids) for contrast, ids in zip(contrasts, values["answers"])}
    talk = [(asked, said) for asked, said in values["talk"]]
    return Ground(
        folder,
        values["base"],
        by_layer("metric"),
        by_layer("root"),
        by_layer("ordinary"),
        by_layer("firsts"),
        by_layer("begun"),
        values["begun"],
        contrasts,
        answers,
        talk,
        {name: tensor for name, tensor in tensors.items() if name.startswith("rows.")},
        {layer: values["order"][str(layer)] for layer in hparams.layers} if values.get("order") else {},
    )


def _folder(model: nn.Module, tokenizer: Any, layout: Layout, hparams: PersonalizationHyperParams) -> Path:
    """One folder for everything that the numbers depend on. As for second moments, edits of ``layers`` do not count."""
    base = fingerprint(model, without=[layout.rewrite_path(layer) for layer in hparams.layers])
    looked_at = hparams.natural.model_dump(include=LOOKED_AT)
    settings = [hparams.layers, looked_at, hparams.prompt_format, hparams.end_of_turn, hparams.seed]
    texts = [_texts_digest(), hparams.preserve.file and Path(hparams.preserve.file).read_text(encoding="utf-8")]
    parts = [VERSION, tokenizer_fingerprint(tokenizer), *map(str, settings), *map(str, texts)]
    return cache_folder(hparams) / base / ("gates-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16])


@cache
def _texts_digest() -> str:
    """Of the shipped texts: after a change of them everything is computed anew."""
    names = (
        "attributes",
        "beginnings",
        "contrasts",
        "preserve",
        "phrasings_a",
        "phrasings_b",
        "phrasings_c",
        "facts",
        "talk",
    )
    return hashlib.sha256(b"".join((BUNDLED / f"{name}.yaml").read_bytes() for name in names)).hexdigest()
