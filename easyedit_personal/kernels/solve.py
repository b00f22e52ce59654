"""The linear algebra of closed-form edits: the right factors that turn wanted changes of outputs into an update.

Notation: K [N, d] keys as rows, C [d, d] second moments of keys in general, P = K C^-1, R [d_out, N] wanted changes.
Both methods need C only through P, and otherwise N x N systems:

    equality       D = R (P K^T)^-1 P                  D K^T = R, least D C D^T     (ROME eq. 2; EMMET for N > 1)
    least squares  D = R (lambda I + P K^T)^-1 P       = R K (lambda C + K^T K)^-1  (MEMIT eq. 14, pushed through)

ROME: arXiv 2202.05262; MEMIT: arXiv 2210.07229; EMMET: arXiv 2403.14236. All of it in double precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ModelError
from ..hparams import LowRankParams

RIDGE = 1e-4  # of C's mean diagonal: directions that the statistics' texts never used are not free of charge
SINGULAR = 1e-4  # keys that differ by less than this are one key; a larger cut-off loses real differences of phrases


def precondition(keys: Tensor, moment: Tensor | float, ridge: float = RIDGE) -> Tensor:
    """P = K C^-1, [N, d], float64.

    Args:
        keys: [N, d].
        moment: C, or a number c for C = c I.
        ridge: added to C's diagonal, relative to its mean.

    Raises:
        ModelError: C is not positive definite.
    """
    keys = keys.double()
    if not isinstance(moment, Tensor):
        return keys / moment
    matrix = moment.to(keys.device, torch.float64)
    diagonal = matrix.diagonal().mean() * ridge
    try:
        factor = torch.linalg.cholesky(
            matrix + diagonal * torch.eye(len(matrix), dtype=matrix.dtype, device=keys.device)
        )
    except torch.linalg.LinAlgError:
        raise ModelError(
            "The second moments are not positive definite.",
            cause="fewer tokens of text than the MLP is wide, or units that are never active",
            remedy="raise mom2_n_samples",
        ) from None
    return torch.cholesky_solve(keys.T, factor).T


def equality(keys: Tensor, preconditioned: Tensor) -> Tensor:
    """Right factor [N, d] of the update that changes each key's output as wanted: right @ keys.T = I.

    Keys that (nearly) coincide are treated as one: their wanted changes are averaged instead of being fought over
    with an update of enormous norm.

    Args:
        keys: K [N, d]; the keys that are to be met.
        preconditioned: P [N, d], of the same keys (of other averages of them in host mode).
    """
    keys = keys.double()
    gram = preconditioned @ keys.T
    scale = gram.diagonal().abs().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    inverse = torch.linalg.pinv(gram * scale[:, None] * scale, rtol=SINGULAR)
    return (inverse * scale[:, None] * scale) @ preconditioned


def least_squares(keys: Tensor, preconditioned: Tensor, weight: float) -> Tensor:
    """Right factor [N, d] of the update that trades errors on the keys against changes on all others.

    Args:
        keys: K [N, d].
        preconditioned: P [N, d].
        weight: lambda, how many times C counts.
    """
    gram = preconditioned @ keys.double().T
    gram = gram + weight * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, preconditioned)


def whitening(moment: Tensor, ridge: float) -> Tensor:
    """P = (C + ridge)^-1/2, symmetric [d, d], float32, scaled to a mean squared eigenvalue of one.

    Args:
        moment: C [d, d].
        ridge: relative to C's mean diagonal; directions that the text uses less than that count alike.

    Raises:
        ModelError: C is not finite.
    """
    return _scaled(_power(_normed(moment), ridge, -0.5))


def contrast(text: Tensor, spared: Tensor, wanted: Tensor, params: LowRankParams) -> Tensor:
    """The metric between what an edit is to reach and what it is to spare, symmetric [d, d], float32.

    P = (Q (I + reach A) Q)^1/2 with Q = (C + spare N + ridge)^-1/2 and A = Q S Q, scaled to a largest eigenvalue of
    one: a step goes furthest where wanted keys are strong and neither text nor spared keys are.

    Args:
        text: C [d, d], second moments of keys in ordinary text.
        spared: N [d, d], of keys where the answers to other questions begin.
        wanted: S [d, d], of keys where the answers to questions like the edited ones begin.
        params: ``ridge``, ``spare``, ``reach``.

    Raises:
        ModelError: a matrix is not finite.
    """
    inverse = _power(_normed(_normed(text) + params.spare * _normed(spared)), params.ridge, -0.5)
    signal = inverse @ _normed(wanted) @ inverse
    signal = signal / torch.linalg.eigvalsh(signal)[-1]
    eye = torch.eye(len(signal), dtype=signal.dtype, device=signal.device)
    return _scaled(_power(inverse @ (eye + params.reach * signal) @ inverse, 0.0, 0.5))


def _normed(moment: Tensor) -> Tensor:
    matrix = moment.double()
    if not bool(matrix.isfinite().all()):
        raise ModelError("The second moments are not finite.", remedy="delete the cached statistics")
    return matrix / matrix.diagonal().mean()


def _power(matrix: Tensor, ridge: float, exponent: float) -> Tensor:
    """(matrix + ridge)^exponent of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * (values.clamp(min=0) + ridge).pow(exponent)) @ vectors.T


def _scaled(metric: Tensor) -> Tensor:
    """To a mean squared eigenvalue of one."""
    return (metric / metric.square().sum().div(len(metric)).sqrt()).float()
