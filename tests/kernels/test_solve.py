"""The closed forms against their textbook versions with explicit inverses."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.hparams import LowRankParams
from easyedit_personal.kernels.solve import contrast, equality, least_squares, precondition, whitening

D, N = 12, 4


@pytest.fixture
def keys():
    return torch.randn(N, D, dtype=torch.float64)


@pytest.fixture
def moment():
    samples = torch.randn(200, D, dtype=torch.float64) * torch.linspace(0.1, 3, D, dtype=torch.float64)
    return samples.T @ samples / 200


def test_one_key_is_romes_rank_one_update(keys, moment):
    k, c_inverse = keys[0], torch.linalg.inv(moment)
    right = equality(keys[:1], precondition(keys[:1], moment, ridge=0.0))
    torch.testing.assert_close(right[0], c_inverse @ k / (k @ c_inverse @ k))


def test_all_keys_are_met_with_the_least_change(keys, moment):
    right = equality(keys, precondition(keys, moment, ridge=0.0))
    torch.testing.assert_close(right @ keys.T, torch.eye(N, dtype=torch.float64))
    wanted = torch.randn(3, N, dtype=torch.float64)
    update = wanted @ right
    null = torch.eye(D, dtype=torch.float64) - torch.linalg.pinv(keys) @ keys  # changes that no key notices
    for _ in range(5):
        other = update + torch.randn(3, D, dtype=torch.float64) @ null * 0.1
        torch.testing.assert_close(other @ keys.T, wanted)
        assert torch.trace(other @ moment @ other.T) > torch.trace(update @ moment @ update.T)


def test_least_squares_is_memits(keys, moment):
    right = least_squares(keys, precondition(keys, moment, ridge=0.0), 7.0)
    torch.testing.assert_close(right, keys @ torch.linalg.inv(7.0 * moment + keys.T @ keys))


def test_a_number_stands_for_a_multiple_of_the_identity(keys):
    eye = torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(precondition(keys, 2.5), precondition(keys, 2.5 * eye, ridge=0.0))
    torch.testing.assert_close(
        least_squares(keys, precondition(keys, 2.5), 3.0), keys @ torch.linalg.inv(7.5 * eye + keys.T @ keys)
    )


def test_a_small_weight_makes_both_the_same(keys, moment):
    p = precondition(keys, moment)
    torch.testing.assert_close(least_squares(keys, p, 1e-9), equality(keys, p), rtol=1e-5, atol=1e-6)


def test_a_key_given_twice_is_one_key(keys):
    doubled = torch.cat([keys, keys[:2], keys[1:2] * (1 + 1e-7)])
    wanted = torch.randn(3, N, dtype=torch.float64)
    once = wanted @ equality(keys, precondition(keys, 1.0))
    again = torch.cat([wanted, wanted[:, :2], wanted[:, 1:2]], 1) @ equality(doubled, precondition(doubled, 1.0))
    torch.testing.assert_close(again, once, rtol=1e-4, atol=1e-6)


def test_contradictions_are_averaged_not_fought_over(keys):
    doubled = keys[[0, 0]] * torch.tensor([[1.0], [1 + 1e-9]])
    wanted = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    update = wanted @ equality(doubled, precondition(doubled, 1.0))
    torch.testing.assert_close(update @ keys[0], torch.tensor([2.0], dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert update.norm() < 10


def test_keys_of_zero_do_no_harm():
    keys = torch.zeros(2, D, dtype=torch.float64)
    assert equality(keys, precondition(keys, 1.0)).isfinite().all()


def test_statistics_of_too_little_text(keys):
    thin = keys[:2].T @ keys[:2]  # rank 2 of 12
    with pytest.raises(ModelError, match="not positive definite"):
        precondition(keys, thin - 1e-9 * torch.eye(D, dtype=torch.float64), ridge=0.0)
    assert precondition(keys, thin).isfinite().all()


def scaled(metric):
    return metric / metric.square().sum().div(len(metric)).sqrt()


def test_whitening_is_the_inverse_root_of_the_ridged_moments(moment):
    metric = whitening(3.0 * moment, 0.01).double()
    ridged = moment / moment.diagonal().mean() + 0.01 * torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(scaled(torch.linalg.inv(metric @ metric)), scaled(ridged), rtol=1e-4, atol=1e-4)
    assert float(metric.square().sum()) == pytest.approx(D) and torch.equal(metric, metric.T)


def test_contrast_is_the_documented_formula_in_coordinates():
    """Of diagonal matrices, whatever their units."""
    text, spared, wanted = (torch.rand(D, dtype=torch.float64) + 0.1 for _ in range(3))
    params = LowRankParams(ridge=0.05, spare=2.0, reach=7.0)
    found = contrast(text.diag(), 9.0 * spared.diag(), 0.01 * wanted.diag(), params).double()
    both = text / text.mean() + 2.0 * spared / spared.mean()
    squared = 1.0 / (both / both.mean() + 0.05)  # Q^2
    signal = squared * wanted
    metric = (squared * (1.0 + 7.0 * signal / signal.max())).sqrt()
    torch.testing.assert_close(found, scaled(metric.diag()), rtol=1e-5, atol=1e-6)
