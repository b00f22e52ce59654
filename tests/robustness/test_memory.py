"""Too little memory for a batch: half of it at a time, the same results; not even for one: an error that says so."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.evaluate.generate import generate
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.rome import rome
from easyedit_personal.modeling.memory import in_halves, out_of_memory
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.types import EditRequest
from tests.tiny import LINES

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), RuntimeError(CPU), MemoryError()]
TEXTS = ["a b c", "d e", "f", "a long text of more words than all the others here", "b a"]


class Small:
    """A model's memory that holds so many rows at once; what was asked of it is kept in ``seen``."""

    def __init__(self, model, rows, error):
        self.rows, self.error, self.seen = rows, error, []
        self.handle = model.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, module, args, kwargs):
        given = kwargs.get("input_ids", args[0] if args else kwargs.get("inputs_embeds"))
        self.seen.append(len(given))
        if len(given) > self.rows:
            raise self.error


@pytest.fixture(params=ERRORS, ids=["cuda", "cpu", "python"])
def small(request, llama):
    made = []

    def make(rows):
        made.append(Small(llama, rows, request.param))
        return made[-1]

    yield make
    for one in made:
        one.handle.remove()


def test_only_lack_of_memory_is_taken_for_it():
    assert all(map(out_of_memory, ERRORS))
    others = (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError(CPU), KeyboardInterrupt())
    assert not any(map(out_of_memory, others))


def test_halves_come_in_order_and_other_errors_pass():
    def work(items):
        if len(items) > 2:
            raise RuntimeError(CPU)
        return list(items)

    assert [n for part in in_halves(work, range(7), "numbers") for n in part] == list(range(7))
    with pytest.raises(ZeroDivisionError):
        in_halves(lambda items: 1 // 0, [1, 2], "numbers")
    with pytest.raises(RuntimeError, match="shapes"):
        in_halves(lambda items: (_ for _ in ()).throw(RuntimeError("shapes")), [1, 2], "numbers")


def test_generation_goes_on_with_half_of_the_rows(llama, tokenizer, small):
    whole = generate(llama, tokenizer, TEXTS, max_new_tokens=6)
    memory = small(2)
    assert generate(llama, tokenizer, TEXTS, max_new_tokens=6) == whole
    assert max(memory.seen) > 2 and memory.seen.count(2)


def test_statistics_go_on_with_half_of_the_rows(llama, tokenizer, small, tmp_path):
    make = lambda name: PersonalizationHyperParams(stats_dir=str(tmp_path / name), mom2_n_samples=20, layers=[1])
    whole = second_moments(llama, tokenizer, [1], make("a"), dataset=LINES)[1]
    memory = small(3)
    halved = second_moments(llama, tokenizer, [1], make("b"), dataset=LINES)[1]
    torch.testing.assert_close(halved, whole)
    assert max(memory.seen) > 3 and memory.seen.count(2)


def test_one_that_does_not_fit_is_an_error_that_says_so(llama, tokenizer, small, tmp_path):
    small(0)
    with pytest.raises(ModelError, match="memory does not suffice for one of the prompts"):
        generate(llama, tokenizer, TEXTS, max_new_tokens=6)
    hparams = PersonalizationHyperParams(stats_dir=str(tmp_path), mom2_n_samples=20, layers=[1])
    with pytest.raises(ModelError, match="memory does not suffice for one of the texts"):
        second_moments(llama, tokenizer, [1], hparams, dataset=LINES)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_values_are_optimised_with_half_of_the_clusters(llama, tokenizer, monkeypatch, error):
    from easyedit_personal.kernels import values

    requests = [EditRequest(f"The {name} is", "b", subject=name, cluster=name) for name in "cdef"]
    hparams = PersonalizationHyperParams(kernel="rome", layers=[1], mom2_adjustment=False, v_num_grad_steps=3)
    whole = rome(llama, tokenizer, requests, hparams)
    sizes, descend = [], values._descend

    def lacking(limit):
        def attempt(problem, hparams):
            sizes.append(problem.n)
            if problem.n > limit:
                raise error
            return descend(problem, hparams)

        return attempt

    monkeypatch.setattr(values, "_descend", lacking(1))
    halved = rome(llama, tokenizer, requests, hparams)
    torch.testing.assert_close(halved[0].update(), whole[0].update(), atol=1e-5, rtol=1e-4)
    assert max(sizes) > 1 and sizes.count(1) == 4
    monkeypatch.setattr(values, "_descend", lacking(0))
    with pytest.raises(ModelError, match="memory does not suffice for one of the clusters"):
        rome(llama, tokenizer, requests, hparams)
