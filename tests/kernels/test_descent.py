"""How shifts descend: exactly, on losses that fall by one at every step."""

from __future__ import annotations

import copy

import pytest
import torch

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import values
from easyedit_personal.kernels.values import _descend


class Slope:
    """What ``_descend`` takes for a problem: every cluster's loss is where it starts plus the sum of its shift [2].

    Attributes:
        asked: how many clusters there were at every evaluation.
    """

    def __init__(self, starts, norms=None, slope=1.0):
        self.starts, self.slope, self.asked = torch.tensor(starts), slope, []
        self.norms = torch.tensor(norms or [1e6] * len(starts))
        self.base = torch.zeros(1, 5, 2)

    @property
    def n(self):
        return len(self.starts)

    def losses(self, shifts):
        self.asked.append(len(shifts))
        return self.starts + self.slope * shifts.sum(1)

    def only(self, kept):
        part = copy.copy(self)
        part.starts = self.starts[kept]
        return part


def settings(**changes):
    """Adam moves an entry that is always pulled alike by its rate: here a loss falls by 1 at every step."""
    given = {"v_lr": 0.5, "v_num_grad_steps": 6, "v_stop_loss": 1.0, "clamp_norm_factor": 1.0, **changes}
    return PersonalizationHyperParams(**given)


def test_who_is_done_stays_and_leaves_the_batch_once_half_of_it_is():
    problem = Slope([0.5, 1.5, 2.5, 4.5])
    shifts = _descend(problem, settings(v_num_grad_steps=20))
    torch.testing.assert_close(shifts, torch.tensor([[0.0] * 2, [-0.5] * 2, [-1.0] * 2, [-2.0] * 2]))
    assert problem.asked == [4, 4, 2, 1, 1] and not shifts.requires_grad


def test_a_loss_at_the_threshold_is_not_below_it():
    problem = Slope([1.0])
    torch.testing.assert_close(_descend(problem, settings()), torch.full((1, 2), -0.5))
    assert len(problem.asked) == 2


def test_every_step_but_the_last_evaluation_s_is_taken():
    problem = Slope([9.0, 7.0])
    torch.testing.assert_close(_descend(problem, settings()), torch.full((2, 2), -2.5))
    assert problem.asked == [2] * 5


def test_without_a_threshold_nobody_looks_who_is_done():
    """A look makes the host wait for the device. (No loss is negative: here it shows that nobody looked.)"""
    problem = Slope([-9.0, -7.0])
    _descend(problem, settings(v_stop_loss=0.0))
    assert problem.asked == [2] * 5


@pytest.mark.parametrize(("device", "evaluations"), [("cpu", 2), ("another", 6)])
def test_on_other_devices_than_cpus_a_look_at_who_is_done_is_taken_every_fifth_step(monkeypatch, device, evaluations):
    if device != "cpu":
        monkeypatch.delitem(values.LOOK_EVERY, "cpu")
    problem = Slope([1.5])
    shifts = _descend(problem, settings(v_num_grad_steps=20))
    assert len(problem.asked) == evaluations
    torch.testing.assert_close(shifts, torch.full((1, 2), -0.5))  # done when it is, whoever looks when


def test_a_shift_ends_at_the_surface_of_its_own_ball():
    problem = Slope([9.0, 9.0, 9.0], norms=[0.25, 2.0, 100.0])
    shifts = _descend(problem, settings(v_stop_loss=0.0, clamp_norm_factor=0.5, v_num_grad_steps=4))
    assert shifts.norm(dim=1).tolist() == pytest.approx([0.125, 1.0, 1.5 * 2**0.5], rel=1e-4)
    assert torch.equal(shifts[:, 0], shifts[:, 1])


def test_nothing_that_pulls_and_nowhere_to_go_is_a_shift_of_zero():
    shifts = _descend(Slope([9.0], norms=[0.0], slope=0.0), settings())
    assert torch.equal(shifts, torch.zeros(1, 2))


def test_an_infinite_shift_is_no_empty_edit():
    assert _descend(Slope([9.0], slope=float("inf")), settings()).isnan().all()
    assert _descend(Slope([9.0]), settings(v_lr=1e37, clamp_norm_factor=1.0)).isnan().all()


def test_means_are_taken_by_owner_and_owners_of_nothing_have_none():
    owner = torch.tensor([2, 0, 2, 2])
    shares = values._shares(owner)
    torch.testing.assert_close(shares, torch.tensor([1 / 3, 1.0, 1 / 3, 1 / 3]))
    found = values._per_cluster(torch.tensor([1.0, 5.0, 2.0, 6.0]), shares, owner, 4)
    torch.testing.assert_close(found, torch.tensor([5.0, 0.0, 3.0, 0.0]))
    assert len(values._shares(owner[:0])) == 0
