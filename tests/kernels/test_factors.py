"""Updates as factors: what they add, what they cost where they are to be silent, and how far a step moves them."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.kernels.factors import Factors, Quiet, Space, adam, decayed, towards


@pytest.fixture
def update():
    """With a metric that is not symmetric, so that both of its sides show."""
    return Factors(Space(torch.randn(5, 5), 0.25), torch.randn(3, 2), torch.randn(2, 5))


def test_an_update_adds_the_product_of_its_parts(update):
    whole = 0.25 * update.left @ update.right @ update.space.metric.T
    keys = torch.randn(4, 7, 5)
    torch.testing.assert_close(update(keys), keys @ whole.T)
    torch.testing.assert_close(update.space.whitened(keys), keys @ update.space.metric)
    stored = update.delta("layer")
    assert stored.layer == "layer"
    torch.testing.assert_close(stored.left @ stored.right, whole)


def test_without_a_metric_keys_are_their_own_coordinates(update):
    plain = Factors(Space(None), update.left, update.right)
    keys = torch.randn(4, 5)
    torch.testing.assert_close(plain(keys), keys @ update.right.T @ update.left.T)
    assert plain.space.whitened(keys) is keys


def test_being_heard_costs_half_the_squared_change_in_the_outputs_metric(update):
    keys, root = torch.randn(6, 5), torch.randn(3, 3)
    each = [0.5 * float((root @ update(key)).square().sum()) for key in keys]
    assert float(Quiet(keys, root)(update)) == pytest.approx(sum(each) / 6, rel=1e-4)


def test_directions_point_from_the_others_mean_to_the_roles():
    roles, others = [torch.randn(4, 5), torch.randn(3, 5)], torch.randn(9, 5)
    means = torch.stack([role.mean(0) for role in roles])
    found = towards(means, others.mean(0).expand_as(means))
    for direction, role in zip(found, roles, strict=True):
        apart = role.mean(0) - others.mean(0)
        torch.testing.assert_close(direction, apart / apart.dot(apart))
    assert torch.equal(towards(others, others), torch.zeros(9, 5))  # nothing to tell apart, nothing infinite


def pulled(update, steps, **options):
    """What so many steps of Adam do where every entry is always pulled alike: each step is as long as its rate."""
    before, asked = update.left.clone(), []

    def loss(step):
        asked.append(step)
        return update.left.sum() - update.right.sum()

    right = update.right.clone()
    adam([update], loss, steps, 0.125, 0.5, **options)
    assert not update.left.requires_grad and not update.right.requires_grad
    return before - update.left, update.right - right, asked


def test_left_factors_move_by_their_rate_and_right_ones_by_a_share_of_their_size():
    update = Factors(Space(None), torch.zeros(3, 2), torch.full((2, 5), 3.0))
    left, right, asked = pulled(update, 4)
    total = sum(decayed(step, 4) for step in range(4))
    torch.testing.assert_close(left, torch.full((3, 2), 0.125 * total))
    torch.testing.assert_close(right, torch.full((2, 5), 0.5 * 3.0 * total))
    assert asked == [0, 1, 2, 3]


def test_it_ends_as_soon_as_it_is_enough():
    update = Factors(Space(None), torch.zeros(3, 2), torch.ones(2, 5))
    answers = iter([False, False, True])
    left, _, asked = pulled(update, 9, enough=lambda: next(answers))
    assert asked == [0, 1, 2]
    torch.testing.assert_close(left, torch.full((3, 2), 0.125 * sum(decayed(step, 9) for step in asked)))


def test_rates_fall_along_a_cosine_to_a_tenth():
    assert [decayed(step, 5) for step in range(5)] == pytest.approx([1.0, 0.8682, 0.55, 0.2318, 0.1], abs=1e-4)
    assert [decayed(step, 2) for step in range(2)] == pytest.approx([1.0, 0.1])
    assert decayed(0, 1) == 1.0
