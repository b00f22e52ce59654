"""What a gate's optimisation looks at, on rows whose logits are given: no model is needed to check sums."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from easyedit_personal.kernels.gate_loss import (
    Kept,
    divergence,
    log_p,
    speaking_loss,
    speaking_of,
    turn,
    words_of,
)

WORDS = torch.arange(2, 30)
ROLES = (("say", "value", "say", "keep", "keep"), ("say", "value", "say"))
UPDATES = {1: None}


class Rows:
    """Answers of so many tokens; what the model says there before the update and with it."""

    def __init__(self, lengths=(5, 3), vocabulary=30):
        self.rows = torch.tensor([n for n, length in enumerate(lengths) for _ in range(length)])
        self.columns = torch.tensor([4 + n + k for n, length in enumerate(lengths) for k in range(length)])
        self.last_index = torch.tensor([4 + n for n in range(len(lengths))])
        self.ids = torch.randint(2, vocabulary, (sum(lengths),))
        self.before, self.after = torch.randn(2, sum(lengths), vocabulary)
        self.graphs = []

    def logits(self, updates=None, words=None):
        self.graphs.append(torch.is_grad_enabled())
        table = self.before if updates is None else self.after
        return table if words is None else table[:, words]


@pytest.fixture
def rows():
    return Rows()


def spoken(roles=ROLES):
    return [SimpleNamespace(roles=one) for one in roles]


def costs(rows):
    """What every token costs with the update, and how far the words' distribution moved there."""
    before, after = (table[:, WORDS].log_softmax(1) for table in (rows.before, rows.after))
    moved = F.kl_div(after, before, log_target=True, reduction="none").sum(1)
    return -after[torch.arange(len(rows.ids)), rows.ids - 2], moved


def test_what_is_to_be_said_and_to_be_kept_is_found_by_role(rows):
    found = speaking_of(rows, spoken(), WORDS)
    assert found.say.tolist() == [0, 2, 5, 7] and found.keep.tolist() == [3, 4]
    assert found.weights.tolist() == [2.0, 1.0, 2.0, 1.0]  # an answer's first token counts twice
    assert torch.equal(WORDS[found.ids], rows.ids)
    torch.testing.assert_close(found.base, rows.before[3:5, WORDS].log_softmax(1))
    assert speaking_of(rows, spoken(), WORDS, ("say", "value")).say.tolist() == [0, 1, 2, 5, 6, 7]


def test_answers_cost_their_nats_and_twice_what_the_models_own_words_moved(rows):
    cost, moved = costs(rows)
    found = speaking_loss([speaking_of(rows, spoken(), WORDS)], UPDATES, WORDS)
    said = (2 * cost[0] + cost[2] + 2 * cost[5] + cost[7]) / 6
    torch.testing.assert_close(found, said + 2 * moved[3:5].mean())


def test_tokens_that_are_said_anyway_cost_nothing_but_count(rows):
    for place, nats in ((0, 0.15), (2, 0.25), (5, 0.19), (7, 0.21)):
        rows.after[place] = -100.0
        rows.after[place, rows.ids[place]] = torch.tensor(nats).neg().exp().logit()
        rows.after[place, 2 if rows.ids[place] != 2 else 3] = 0.0
    cost, moved = costs(rows)
    assert cost[[0, 2, 5, 7]].tolist() == pytest.approx([0.15, 0.25, 0.19, 0.21], rel=1e-3)
    found = speaking_loss([speaking_of(rows, spoken(), WORDS)], UPDATES, WORDS)
    assert float(found) == pytest.approx((0.25 + 0.21) / 6 + 2 * float(moved[3:5].mean()), rel=1e-3)


def test_groups_of_rows_cost_as_one(rows):
    short = Rows((2,))
    both = [speaking_of(rows, spoken(), WORDS), speaking_of(short, spoken([("say", "value")]), WORDS)]
    (cost, moved), (other, _) = costs(rows), costs(short)
    said = (2 * cost[0] + cost[2] + 2 * cost[5] + cost[7] + 2 * other[0]) / 8
    torch.testing.assert_close(speaking_loss(both, UPDATES, WORDS), said + 2 * moved[3:5].mean())
    alone = speaking_loss(both[1:], UPDATES, WORDS)  # nothing of the model's own is kept here
    torch.testing.assert_close(alone, other[0])


def test_contrasts_cost_what_their_first_tokens_moved_and_the_rest_moved_on_average(rows):
    _, moved = costs(rows)
    part = Kept(rows, log_p(rows, WORDS))
    later = moved[[1, 2, 3, 4, 6, 7]].mean()
    torch.testing.assert_close(divergence(part, UPDATES, WORDS), moved[[0, 5]].mean() + later)
    assert part.latest == pytest.approx(float(moved[[0, 5]].mean()))


def test_contrasts_of_one_token_have_no_rest():
    rows = Rows((1, 1))
    part = Kept(rows, log_p(rows, WORDS))
    torch.testing.assert_close(divergence(part, UPDATES, WORDS), costs(rows)[1].mean())


def test_a_part_that_was_never_seen_comes_before_all_others(rows):
    seen, new = Kept(rows, WORDS, 1e9), Kept(rows, WORDS)
    assert turn([seen, new], 1) is new


def test_the_words_are_the_rows_own_and_the_likeliest_24_at_every_place():
    likely, own = Rows((1,), 400), Rows((1,), 400)
    likely.ids = likely.before[0].topk(5).indices[-1:]
    assert words_of([likely], []).tolist() == sorted(likely.before[0].topk(24).indices.tolist())
    own.ids = own.before[0].topk(400).indices[-1:]
    both = {*likely.before[0].topk(24).indices.tolist(), *own.before[0].topk(24).indices.tolist(), *own.ids.tolist()}
    assert words_of([own], [likely]).tolist() == sorted(both)
    few = Rows((1,), 7)
    assert set(words_of([few], []).tolist()) == set(range(7))


def test_looking_at_the_unedited_model_keeps_no_graph(rows):
    words_of([rows], [rows])
    log_p(rows, WORDS)
    assert rows.graphs == [False] * 3
