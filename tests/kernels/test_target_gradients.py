"""What raises the words of an update, against the model's own derivatives, and what the forms see of them."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.edited_rows import EditedRows
from easyedit_personal.kernels.factors import Factors, Quiet, Space
from easyedit_personal.kernels.target_gradients import Probe, target_gradients, with_gradients
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import Encoded
from easyedit_personal.modeling.trace import replacing

ROWS = [Encoded((5, 6, 7, 8), (9, 10, 11), 1), Encoded((5, 6, 12), (13,), 0), Encoded((5, 6, 14, 15, 16), (17, 18), 2)]
WORDS = torch.tensor([3, 9, 10, 11, 13, 17, 18, 200])
PLACES = [(row, column) for row, one in enumerate(ROWS) for column in range(len(one.target_ids))]


def said_with_zeros(model, layer, row, place):
    """By a plain pass: log p of an answer's token among WORDS, zeros added to the output, and where it is predicted."""
    one = ROWS[row]
    at = len(one.prompt_ids) - 1 + place
    added = torch.zeros(len(one.ids), 32, requires_grad=True)
    with replacing(model.get_submodule(find_layout(model).rewrite_path(layer)), lambda old: old + added):
        logits = model(torch.tensor([one.ids])).logits[0]
    own = WORDS.tolist().index(one.target_ids[place])
    return logits[at, WORDS].log_softmax(0)[own], added, at


@pytest.mark.parametrize("apart", [False, True], ids=["one group", "two groups"])
def test_they_are_mean_gradients_of_the_log_probability_of_each_role_s_words(loud_llama, tokenizer, apart):
    layout = find_layout(loud_llama)
    groups = [ROWS[:1], ROWS[1:]] if apart else [ROWS]
    roles = [torch.tensor([0, 3]), torch.tensor([5])]
    with frozen(loud_llama):
        rows = [EditedRows(loud_llama, tokenizer, layout, some, [1, 2], from_answers=True) for some in groups]
        found = target_gradients(rows, roles, WORDS)
        for layer in (1, 2):
            assert found[layer].shape == (2, 32)
            for role, numbers in enumerate(roles):
                wanted = []
                for number in numbers.tolist():
                    said, added, at = said_with_zeros(loud_llama, layer, *PLACES[number])
                    wanted.append(torch.autograd.grad(said, added)[0][at])
                torch.testing.assert_close(found[layer][role], torch.stack(wanted).mean(0), atol=1e-6, rtol=1e-3)


def test_only_the_roles_own_words_count(loud_llama, tokenizer):
    """What a place adds for a later token counts only where that one has a role, too."""
    layout = find_layout(loud_llama)
    with frozen(loud_llama):
        rows = [EditedRows(loud_llama, tokenizer, layout, ROWS[:1], [1], from_answers=True)]
        alone = target_gradients(rows, [torch.tensor([0])], WORDS)[1][0]
        beside = target_gradients(rows, [torch.tensor([0]), torch.tensor([2])], WORDS)[1][0]
        (first, added, at), (last, later, _) = (
            said_with_zeros(loud_llama, 1, 0, 0),
            said_with_zeros(loud_llama, 1, 0, 2),
        )
        own = torch.autograd.grad(first, added)[0][at]
        both = own + torch.autograd.grad(last, later)[0][at]
    torch.testing.assert_close(alone, own, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(beside, both, atol=1e-6, rtol=1e-3)
    assert not torch.allclose(own, both, rtol=1e-2)


def test_a_step_along_a_gradient_makes_its_word_likelier(loud_llama, tokenizer):
    layout = find_layout(loud_llama)
    with frozen(loud_llama):
        rows = EditedRows(loud_llama, tokenizer, layout, ROWS, [1], from_answers=True)
        gradient = target_gradients([rows], [torch.tensor([3])], WORDS)[1][0]
        said = lambda change: float(rows.logits({1: change}, words=WORDS).log_softmax(1)[3, 4])
        before, after = said(lambda keys: torch.zeros(32)), said(lambda keys: 1e-2 * gradient)
    assert after - before == pytest.approx(1e-2 * float(gradient.square().sum()), rel=0.1)


def test_a_probe_adds_nothing_and_takes_gradients():
    probe = Probe(3)
    assert probe.zeros.shape == (0,)
    zeros = probe(torch.randn(2, 4, 5, dtype=torch.float64))
    assert zeros is probe.zeros and zeros.requires_grad and zeros.dtype == torch.float64
    assert zeros.shape == (2, 4, 3) and not zeros.any()


def test_the_gradients_stand_below_the_root_by_the_square_root_of_what_they_count():
    root, gradients = torch.randn(3, 3, dtype=torch.float64), torch.randn(2, 3)
    found = with_gradients(root, gradients, 0.25)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.cat([root.float(), 0.5 * gradients]))


def test_the_form_sees_the_rise_of_a_word_that_is_hardly_ever_said_and_the_fisher_information_alone_does_not():
    """Logits are outputs: G = diag(p) - p p^T. The update makes a word of p = 1e-7 a thousand times as likely."""
    p = torch.tensor([0.5, 0.5 - 1e-7, 1e-7], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(p.diag() - p[:, None] * p)
    root = ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).float()
    gradient = torch.tensor([0.0, 0.0, 1.0]) - p.float()  # d log p_2 / d logits
    nats = torch.tensor(1000.0).log()
    update = Factors(Space(None), nats * torch.tensor([[0.0], [0.0], [1.0]]), torch.ones(1, 1))
    cost = lambda form: float(Quiet(torch.ones(4, 1), form)(update))
    assert cost(root) < 1e-5
    assert cost(with_gradients(root, gradient[None], 0.01)) == pytest.approx(0.5 * 0.01 * float(nats) ** 2, rel=1e-3)
