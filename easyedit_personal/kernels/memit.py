"""MEMIT: many requests at once, spread over several layers by regularised least squares.

"Mass-Editing Memory in a Transformer", arXiv 2210.07229, equations 14 and 16, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, find_layout
from ..modeling.stats import second_moments
from ..modeling.tail import Tail
from ..types import EditRequest, WeightDelta
from .apply import in_weights
from .base import frozen
from .key_options import HOST, KeyOptions
from .keys import Cluster, all_rows, make_clusters, phrase_means, read
from .solve import least_squares, precondition
from .values import optimise_values

OURS = KeyOptions(in_stream=True)
HOSTS = replace(HOST, sentences=((10, 5),), bare_share=0.5, in_stream=True)


def memit(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """Edit the down projections of ``hparams.layers`` so that every phrase is answered with its target.

    Notation: N phrases, L edited layers, i = 0 ... L - 1 the one at work; K [N, d_mlp] the phrases' keys there;
    z [N, d_model] the hidden states wanted above the last edited layer, h those that the model has by now.

        R = (z - h) / (L - i)        update = R^T K (lambda C + K^T K)^-1        left = R^T, right = the rest: rank N

    Where a layer norms its MLP's output before adding it (Gemma 2, OLMo 2), R is carried back through that norm.
    Without ``mom2_adjustment`` C is the identity times the mean square of a key's entries, so that
    ``mom2_update_weight`` keeps its meaning.

    Args:
        model: a causal language model; bit for bit the same afterwards, also when this raises.
        tokenizer: its tokenizer, padding side and all untouched.
        requests: the phrases; those of one preference share ``cluster`` and target.
        hparams: ``layers``, ``mom2_update_weight`` (lambda), and what ``rome`` reads.

    Returns:
        One delta per layer, lower layers first, float32.

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
        ModelError: the model has no such layer, or the optimisation diverged.
    """
    options = HOSTS if hparams.host_mode else OURS
    layout = find_layout(model, hparams)
    layers = sorted(layout.check_layer(layer) for layer in hparams.layers)
    deltas: list[WeightDelta] = []
    with frozen(model):
        clusters = make_clusters(model, tokenizer, requests, hparams, options)
        moments: dict[int, Tensor] = {}
        if hparams.mom2_adjustment:
            moments = second_moments(model, tokenizer, layers, hparams)
        wanted = _wanted(model, tokenizer, layout, clusters, layers[-1], hparams, options)
        for done, layer in enumerate(layers):
            with in_weights(model, deltas):
                seen = read(model, tokenizer, layout, all_rows(clusters), layer, hidden_layer=layers[-1])
            missing = (wanted - phrase_means(seen.hidden, clusters, options.read_weights)) / (len(layers) - done)
            outputs = phrase_means(seen.outputs, clusters, options.read_weights)
            residual = Tail.of(model, layout, layer).pull_back(outputs, missing)
            keys = phrase_means(seen.keys, clusters, options.key_weights)
            deltas.append(_delta(layout.rewrite_path(layer), residual, keys, moments.get(layer), hparams, options))
    return deltas


def _wanted(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    clusters: Sequence[Cluster],
    layer: int,
    hparams: PersonalizationHyperParams,
    options: KeyOptions,
) -> Tensor:
    """z [N, d_model]: each phrase's hidden state above ``layer`` once its cluster's shift is in place."""
    found = optimise_values(model, tokenizer, layout, clusters, layer, hparams, options)
    seen, shifts = found.seen, found.shifts
    owners = [i for i, cluster in enumerate(clusters) for phrase in cluster.rows for _ in phrase]
    tail = Tail.of(model, layout, layer)
    shifted = seen.outputs + shifts.to(seen.outputs.device)[owners]
    return phrase_means(seen.hidden - tail(seen.outputs) + tail(shifted), clusters, options.read_weights)


def _delta(
    path: str,
    residual: Tensor,
    keys: Tensor,
    moment: Tensor | None,
    hparams: PersonalizationHyperParams,
    options: KeyOptions,
) -> WeightDelta:
    scale = float(keys.double().square().mean())
    ready = precondition(keys, scale if moment is None else moment, options.ridge)
    right = least_squares(keys, ready, hparams.mom2_update_weight)
    left, right = residual.T.contiguous(), right.float()
    if len(keys) > min(left.shape[0], right.shape[1]):  # more phrases than the matrix has dimensions
        return WeightDelta.dense(path, left @ right)
    return WeightDelta(path, left, right)
