"""Too little memory for a batch: half of it at a time, the same results; not even for one: an error that says so."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.generation import base_answers as answers
from easyedit_personal.generation.generate import generate
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.finetune import finetune
from easyedit_personal.kernels.lowrank import lowrank
from easyedit_personal.kernels.rome import rome
from easyedit_personal.modeling import memory
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.memory import free, in_halves, out_of_memory, with_fewer
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.types import EditRequest
from tests.tiny import LINES

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), RuntimeError(CPU), MemoryError()]
each_error = pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
TEXTS = ["a b c", "d e", "f", "a long text of more words than all the others here", "b a"]


@pytest.mark.parametrize("library", [OSError("no such library"), AttributeError("malloc_trim")])
def test_memory_is_given_back_under_any_c_library(monkeypatch, library):
    class Absent:
        def __init__(self, name):
            raise library

    memory._trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", Absent)
    try:
        assert memory._trim() is None
        free()
    finally:
        memory._trim.cache_clear()


PHRASES = [EditRequest(f"The {name} is", "b", subject=name, cluster="one") for name in "cdefgh"]
FEW = {"steps": 3}
SETTINGS = {
    "kernel": "lowrank",
    "layers": [0, 1],
    "mom2_adjustment": False,
    "lowrank": {**FEW, "polish": 1, "batch": 6},
    "finetune": {**FEW, "lr": 0.01},
    "preserve": {"batch": 6, "answer_tokens": 3},
}


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


@pytest.fixture
def small(llama):
    made = []

    def make(rows, error=ERRORS[1]):
        made.append(Small(llama, rows, error))
        return made[-1]

    yield make
    for one in made:
        one.handle.remove()


def test_only_lack_of_memory_is_taken_for_it():
    assert all(map(out_of_memory, ERRORS))
    others = (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError(CPU), KeyboardInterrupt())
    assert not any(map(out_of_memory, others))


@each_error
def test_halves_come_in_order_and_other_errors_pass(error):
    def work(items):
        if len(items) > 2:
            raise error
        return list(items)

    assert [n for part in in_halves(work, range(7), "numbers", "tiny") for n in part] == list(range(7))
    with pytest.raises(ZeroDivisionError):
        in_halves(lambda items: 1 // 0, [1, 2], "numbers", "tiny")
    with pytest.raises(RuntimeError, match="shapes"):
        in_halves(lambda items: (_ for _ in ()).throw(RuntimeError("shapes")), [1, 2], "numbers", "tiny")


@each_error
def test_generation_goes_on_with_half_of_the_rows(llama, tokenizer, small, error):
    whole = generate(llama, tokenizer, TEXTS, max_new_tokens=6)
    memory = small(2, error)
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
    with pytest.raises(ModelError, match=r"memory does not suffice for one of the prompts \(model Llama"):
        generate(llama, tokenizer, TEXTS, max_new_tokens=6)
    hparams = PersonalizationHyperParams(stats_dir=str(tmp_path), mom2_n_samples=20, layers=[1])
    with pytest.raises(ModelError, match="memory does not suffice for one of the texts"):
        second_moments(llama, tokenizer, [1], hparams, dataset=LINES)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_values_are_optimised_with_half_of_the_clusters(llama, tokenizer, monkeypatch):
    from easyedit_personal.kernels import values

    requests = [EditRequest(f"The {name} is", "b", subject=name, cluster=name) for name in "cdef"]
    hparams = PersonalizationHyperParams(kernel="rome", layers=[1], mom2_adjustment=False, v_num_grad_steps=3)
    whole = rome(llama, tokenizer, requests, hparams)
    sizes, descend = [], values._descend

    def lacking(limit):
        def attempt(problem, hparams):
            sizes.append(problem.n)
            if problem.n > limit:
                raise ERRORS[0]
            return descend(problem, hparams)

        return attempt

    monkeypatch.setattr(values, "_descend", lacking(1))
    halved = rome(llama, tokenizer, requests, hparams)
    torch.testing.assert_close(halved[0].update(), whole[0].update(), atol=1e-5, rtol=1e-4)
    assert max(sizes) > 1 and sizes.count(1) == 4
    monkeypatch.setattr(values, "_descend", lacking(0))
    with pytest.raises(ModelError, match="memory does not suffice for one of the clusters"):
        rome(llama, tokenizer, requests, hparams)


@each_error
def test_an_edit_that_does_not_fit_names_the_model(llama, tokenizer, monkeypatch, error):
    from easyedit_personal.editing import algorithm

    def lacking(*given):
        raise error

    llama.config._name_or_path = "/models/big-llama"
    monkeypatch.setattr(algorithm.KERNELS, "get", lambda name: lacking)
    for strategy in ("joint", "sequential"):
        hparams = PersonalizationHyperParams(strategy=strategy)
        with pytest.raises(ModelError, match=r"memory does not suffice for an edit \(model big-llama\)"):
            algorithm.compute_deltas(llama, tokenizer, PHRASES, hparams)


@each_error
def test_a_model_that_does_not_fit_is_named(monkeypatch, error):
    import transformers

    from easyedit_personal.modeling.pretrained import pretrained

    def lacking(*given, **options):
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lacking)
    with pytest.raises(ModelError, match=r"memory does not suffice for the weights \(model 'org/big'\)"):
        pretrained("org/big")


def layers_of(model):
    """What holds the rows of training: the last decoder layer, which is run without its model."""
    return model.get_submodule(find_layout(model).layer_path(find_layout(model).n_layers - 1))


class SmallLayer(Small):
    """As ``Small``, for a layer."""

    def look(self, module, args, kwargs):
        super().look(module, args, {"inputs_embeds": kwargs.get("hidden_states", args[0] if args else None)})


@pytest.mark.parametrize("kernel", [lowrank, finetune], ids=["lowrank", "finetune"])
def test_training_goes_on_with_half_of_the_phrases(llama, tokenizer, kernel, caplog):
    hparams = PersonalizationHyperParams(**SETTINGS)
    whole = kernel(llama, tokenizer, PHRASES, hparams)
    memory = SmallLayer(layers_of(llama), 2, ERRORS[0])
    try:
        halved = kernel(llama, tokenizer, PHRASES, hparams)
    finally:
        memory.handle.remove()
    assert max(memory.seen) > 2 and memory.seen.count(2) and "at most 2 phrases at a time" in caplog.text
    for one, two in zip(halved, whole, strict=True):
        torch.testing.assert_close(one.update(), two.update(), atol=1e-4, rtol=1e-2)
        assert two.update().abs().max() > 1e-3


@pytest.mark.parametrize("kernel", [lowrank, finetune], ids=["lowrank", "finetune"])
def test_a_phrase_that_does_not_fit_is_an_error_that_says_so(llama, tokenizer, kernel):
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    memory = SmallLayer(layers_of(llama), 0, ERRORS[1])
    answers._ANSWERS.clear()
    try:
        with pytest.raises(ModelError, match="memory does not suffice for one of the"):
            kernel(llama, tokenizer, PHRASES, PersonalizationHyperParams(**SETTINGS))
    finally:
        memory.handle.remove()
    assert all(torch.equal(value, before[name]) for name, value in llama.state_dict().items())


def test_what_is_held_at_a_time_is_less(llama, tokenizer, monkeypatch):
    """Bytes that the graph of a step keeps: of all groups, or of none until the backward pass comes to it."""
    from easyedit_personal.kernels import lowrank as module

    held, descend = [], module.descend

    def watched(*given):
        held.append(0)

        def keep(tensor):
            held[-1] += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return descend(*given)

    monkeypatch.setattr(module, "descend", watched)
    hparams = PersonalizationHyperParams(**SETTINGS)
    lowrank(llama, tokenizer, PHRASES, hparams)
    monkeypatch.setattr(module, "with_fewer", lambda work, most, what, model: work(1))
    lowrank(llama, tokenizer, PHRASES, hparams)
    assert held[2] < held[0] / 4


def test_the_preserved_answers_are_written_in_halves(llama, tokenizer, small):
    hparams = PersonalizationHyperParams(**SETTINGS)
    answers._ANSWERS.clear()
    whole = answers.with_answers(llama, tokenizer, TEXTS, hparams)
    answers._ANSWERS.clear()
    memory = small(2)
    assert answers.with_answers(llama, tokenizer, TEXTS, hparams) == whole
    assert max(memory.seen) > 2 and memory.seen.count(2)


@each_error
def test_fewer_and_fewer_until_it_fits_and_other_errors_pass(error):
    tried = []

    def work(most):
        tried.append(most)
        if (most or 9) > 3:
            raise error
        return "done"

    assert with_fewer(work, 9, "numbers", "tiny") == "done" and tried == [None, 5, 3]
    with pytest.raises(ZeroDivisionError):
        with_fewer(lambda most: 1 // 0, 9, "numbers", "tiny")


def test_streams_wait_for_a_place_and_say_the_same(llama, tokenizer, small):
    from easyedit_personal.serving.personalized import PersonalizedModel
    from tests.serving.test_personalized import RANKS, Shelf

    pm = PersonalizedModel(llama, tokenizer, Shelf(llama, RANKS))
    users = ["alice", "bob", None, "carol", "alice"]
    start = lambda: [pm.stream_for(user, text, max_new_tokens=8) for user, text in zip(users, TEXTS)]
    whole = ["".join(stream) for stream in start()]
    streams = start()
    beginnings = [next(stream) for stream in streams]
    memory = small(2)  # in the middle of all answers
    assert [first + "".join(rest) for first, rest in zip(beginnings, streams)] == whole
    assert max(memory.seen) > 2 and memory.seen.count(2) and pm._streams.most == 2
    memory.handle.remove()
    wide = small(9)
    assert ["".join(stream) for stream in start()] == whole and max(wide.seen) == 5  # all is quiet: they fit again
    assert pm._streams.most is None


def test_an_answer_that_does_not_fit_is_an_error_that_says_so(llama, tokenizer, small):
    from easyedit_personal.serving.personalized import PersonalizedModel
    from tests.serving.test_personalized import RANKS, Shelf

    pm = PersonalizedModel(llama, tokenizer, Shelf(llama, RANKS))
    small(0)
    for stream in [pm.stream_for("alice", TEXTS[0]), pm.stream_for("bob", TEXTS[1])]:
        with pytest.raises(ModelError, match="memory does not suffice for one of the answers"):
            next(stream)
