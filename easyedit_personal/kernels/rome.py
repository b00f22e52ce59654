"""ROME: one matrix, one closed-form update that gives the subject's key a new value.

"Locating and Editing Factual Associations in GPT", arXiv 2202.05262, equation 2; with several phrases or preferences
all keys are met at once by the equality-constrained solve of EMMET, arXiv 2403.14236, which is ROME's for one key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, find_layout
from ..modeling.stats import second_moments
from ..types import EditRequest, WeightDelta
from .apply import in_weights
from .base import frozen
from .key_options import HOST, KeyOptions
from .keys import Cluster, make_clusters, membership, phrase_means
from .solve import equality, precondition
from .values import optimise_values


def _options(hparams: PersonalizationHyperParams) -> KeyOptions:
    """How keys are read: EasyEdit's way in ``host_mode``, else ours."""
    if not hparams.host_mode:
        return KeyOptions()
    return replace(HOST, sentences=tuple((length, n) for length, n in hparams.context_template_length_params))


def rome(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """Edit one down projection so that every phrase is answered with its target.

    Notation: N phrases in c clusters; K [N, d_mlp] their keys; V [d_model, c] the clusters' shifts (``values``);
    S [c, N] which phrase belongs to which cluster; C second moments, or the identity without ``mom2_adjustment``.

        update = V S (K C^-1 K^T)^-1 K C^-1         left = V, right = the rest: rank c, whatever N is

    Args:
        model: a causal language model; bit for bit the same afterwards, also when this raises.
        tokenizer: its tokenizer, padding side and all untouched.
        requests: the phrases; those of one preference share ``cluster`` and target.
        hparams: ``layers`` (usually one; several are edited one after the other, lower ones first), ``v_*``,
            ``kl_factor``, ``clamp_norm_factor``, ``mom2_*``, ``context_templates``, ``host_mode``.

    Returns:
        One delta per layer, float32.

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
        ModelError: the model has no such layer, or the optimisation diverged.
    """
    options = _options(hparams)
    layout = find_layout(model, hparams)
    layers = sorted(layout.check_layer(layer) for layer in hparams.layers)
    deltas: list[WeightDelta] = []
    with frozen(model):
        clusters = make_clusters(model, tokenizer, requests, hparams, options)
        moments: dict[int, Tensor] = {}
        if hparams.mom2_adjustment:
            moments = second_moments(model, tokenizer, layers, hparams)
        for layer in layers:
            with in_weights(model, deltas):
                moment = moments.get(layer, 1.0)
                deltas.append(_edit(model, tokenizer, layout, clusters, layer, moment, hparams, options))
    return deltas


def rome_for_many(
    model: nn.Module,
    tokenizer: Any,
    requests: Sequence[Sequence[EditRequest]],
    hparams: PersonalizationHyperParams,
) -> list[list[WeightDelta]]:
    """Every user's own ``rome`` edit of the same base model, with all users' values optimised together.

    Nobody's edit sees another's: the result is that of one call per user, at the price of a batch. Second moments are
    factorised once. With several layers, users are edited one after the other, since each one's second layer
    depends on the first.

    Args:
        model, tokenizer, hparams: as for ``rome``.
        requests: each user's.

    Returns:
        Each user's deltas, in the order given.

    Raises:
        RequestError, ModelError: as ``rome``; nothing was computed for anybody.
    """
    options = _options(hparams)
    if len(hparams.layers) > 1:
        return [rome(model, tokenizer, part, hparams) for part in requests]
    layout = find_layout(model, hparams)
    (layer,) = map(layout.check_layer, hparams.layers)
    with frozen(model):
        by_user = [make_clusters(model, tokenizer, part, hparams, options) for part in requests]
        everybody = [cluster for clusters in by_user for cluster in clusters]
        if not everybody:
            return []
        moments: Any = second_moments(model, tokenizer, [layer], hparams) if hparams.mom2_adjustment else {}
        found = optimise_values(model, tokenizer, layout, everybody, layer, hparams, options)
        lefts = found.shifts.split([len(clusters) for clusters in by_user])
        rights = _rights(found.seen.keys, by_user, moments.get(layer, 1.0), options)
    path = layout.rewrite_path(layer)
    return [[WeightDelta(path, left.T.contiguous(), right.to(left.device))] for left, right in zip(lefts, rights)]


def _edit(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    clusters: Sequence[Cluster],
    layer: int,
    moment: Tensor | float,
    hparams: PersonalizationHyperParams,
    options: KeyOptions,
) -> WeightDelta:
    found = optimise_values(model, tokenizer, layout, clusters, layer, hparams, options)
    (right,) = _rights(found.seen.keys, [clusters], moment, options)
    return WeightDelta(layout.rewrite_path(layer), found.shifts.T.contiguous(), right.to(found.shifts.device))


def _rights(
    seen: Tensor, by_user: Sequence[Sequence[Cluster]], moment: Tensor | float, options: KeyOptions
) -> list[Tensor]:
    """Each user's right factor [clusters, d_mlp], float32; ``seen`` [R, d_mlp] holds the keys of everybody's rows."""
    everybody = [cluster for clusters in by_user for cluster in clusters]
    keys = phrase_means(seen, everybody, options.key_weights)
    met = phrase_means(seen, everybody, options.read_weights)
    counts = [sum(len(cluster.rows) for cluster in clusters) for clusters in by_user]
    ready = precondition(keys, moment, options.ridge).split(counts)
    rights = [equality(some, part) for some, part in zip(met.split(counts), ready)]
    return [(membership(clusters).to(right.device) @ right).float() for clusters, right in zip(by_user, rights)]
