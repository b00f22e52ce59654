"""What a direction costs: the metric in which the ``lowrank`` kernel moves, from second moments of a model's keys.

Ordinary text makes directions dear that it uses (ROME's metric); the positions where answers begin tell questions about
the user from all others, as far as the model itself does. One metric per model and layer, kept in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import find_layout, fingerprint, tokenizer_fingerprint
from ..modeling.stats import second_moments
from ..modeling.stats_text import Questions
from .preserve import Material
from .solve import contrast, whitening

MODELS_KEPT = 4
_METRICS: OrderedDict[tuple[Any, ...], dict[int, Tensor]] = OrderedDict()


def key_metrics(model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams) -> dict[int, Tensor]:
    """P [d_mlp, d_mlp] of every edited layer, on the CPU; empty without ``mom2_adjustment``.

    The eigenvectors of a wide layer take minutes: the last ``MODELS_KEPT`` models' are kept.

    Raises:
        ConfigError, DataError: the preservation file, or the text of the second moments, cannot be read.
    """
    if not hparams.mom2_adjustment:
        return {}
    layout = find_layout(model, hparams)
    edited = [layout.rewrite_path(layer) for layer in hparams.layers]
    moments = (hparams.mom2_dataset, hparams.mom2_n_samples, hparams.mom2_dtype, hparams.max_length, hparams.seed)
    params, asked = hparams.lowrank, (hparams.prompt_format, hparams.preserve.file)
    weights = (params.ridge, params.spare, params.reach)
    base = fingerprint(model, without=edited)
    key = (base, tokenizer_fingerprint(tokenizer), *hparams.layers, *map(str, moments), *asked, *weights)
    if key not in _METRICS:
        _METRICS[key] = _compute(model, tokenizer, hparams)
    _METRICS.move_to_end(key)
    while len(_METRICS) > MODELS_KEPT:
        _METRICS.popitem(last=False)
    return _METRICS[key]


def _compute(model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams) -> dict[int, Tensor]:
    params, layers = hparams.lowrank, hparams.layers
    text = second_moments(model, tokenizer, layers, hparams)
    if not params.spare and not params.reach:
        return {layer: whitening(moment, params.ridge) for layer, moment in text.items()}
    material = Material.load(hparams.preserve.file)
    spared, wanted = (
        second_moments(model, tokenizer, layers, hparams, dataset=Questions(tuple(texts), hparams.prompt_format))
        for texts in (material.impersonal(), material.personal())
    )
    return {layer: contrast(text[layer], spared[layer], wanted[layer], params) for layer in layers}
