"""The head's rows of some words: picked once, and again when the head changes."""

from __future__ import annotations

import gc

import torch

from easyedit_personal.kernels.base import frozen
from easyedit_personal.modeling import head as module
from easyedit_personal.modeling.layout import find_layout


def test_words_have_the_logits_that_they_have_among_all(any_model):
    hidden, words = torch.randn(3, any_model.config.hidden_size), torch.tensor([9, 5, 7])
    layout = find_layout(any_model)
    with torch.no_grad():
        every = module.logits_of(any_model, layout, hidden)
        torch.testing.assert_close(module.logits_of(any_model, layout, hidden, words), every[:, words])
    with frozen(any_model):
        for _ in range(2):
            torch.testing.assert_close(module.logits_of(any_model, layout, hidden, words), every[:, words])


def test_rows_are_picked_once_as_long_as_words_and_head_stay_as_they_are(llama):
    layout, hidden, words = find_layout(llama), torch.randn(2, 32), torch.tensor([5, 7])
    head = llama.lm_head
    with frozen(llama):
        module.logits_of(llama, layout, hidden, words)
        first = module._PICKED[id(words)][1]
        module.logits_of(llama, layout, hidden, words)
        assert module._PICKED[id(words)][1] is first
        before = head.weight.clone()
        head.weight.mul_(2)  # somebody edits the head
        doubled = module.logits_of(llama, layout, hidden, words)
        head.weight.copy_(before)
        torch.testing.assert_close(module.logits_of(llama, layout, hidden, words), doubled / 2)
    number = id(words)
    del words
    gc.collect()
    assert number not in module._PICKED


def test_a_head_that_learns_gets_its_gradient(llama):
    words = torch.tensor([5, 7])
    llama.lm_head.weight.requires_grad_()
    module.logits_of(llama, find_layout(llama), torch.randn(2, 32), words).sum().backward()
    changed = llama.lm_head.weight.grad.abs().sum(1).nonzero()[:, 0]
    assert changed.tolist() == [5, 7] and id(words) not in module._PICKED
    llama.lm_head.weight.grad = None
