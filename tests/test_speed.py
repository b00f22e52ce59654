"""The speed benchmark's own arithmetic: operations, pairs, stretched samples, and what it says without EasyEdit."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import __main__ as command
from benchmarks.speed import host, machine
from benchmarks.speed.edits import apart, of_deltas, of_host
from benchmarks.speed.pairs import Side, compare, spread
from benchmarks.speed.shapes import cluster, contexts, model_of, requests
from benchmarks.speed.watch import Passes, Stopwatch
from easyedit_personal import WeightDelta
from easyedit_personal.errors import HostError
from tests.tiny import tiny_model
from tests.tiny_model import FOLDER, SETTINGS

SMALL = ("--model", str(FOLDER), "--hparams", str(SETTINGS))


def test_operations_are_counted_forward_and_backward(llama):
    a, b = torch.randn(7, 11, requires_grad=True), torch.randn(11, 5)
    found = machine.cost(lambda: torch.autograd.grad((a @ b).sum(), a), llama)
    assert found.gflop * 1e9 == 2 * (2 * 7 * 11 * 5)
    query = torch.randn(1, 2, 6, 8)
    attention = machine.cost(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query), llama)
    assert attention.gflop * 1e9 == 4 * 2 * 6 * 6 * 8


def test_pairs_take_turns_and_ratios_are_theirs_over_ours(llama, monkeypatch):
    clock, order = [0.0], []

    def work(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds
            return name

        return run

    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(f"benchmarks.speed.pairs.time.{name}", lambda: clock[0])
    stretched = Side(work("theirs", 3.0), units=2, stretch=lambda wall, cpu: (wall * 4, cpu * 2))
    outcome = compare(Side(work("ours", 1.0)), stretched, 3, llama)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert outcome.ratio["median"] == outcome.ratio["min"] == 6.0
    assert outcome.ratio["by_cpu_seconds"]["median"] == 3.0
    assert (outcome.ours["seconds"], outcome.theirs["seconds"], outcome.theirs_result) == (1.0, 6.0, "theirs")
    assert spread([1, 2, 9]) == {"median": 2, "min": 1, "max": 9, "n": 3}


def test_a_stopwatch_counts_the_named_functions_only(monkeypatch):
    clock = [0.0]
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(f"benchmarks.speed.watch.time.{name}", lambda: clock[0])

    def slow(seconds):
        clock[0] += seconds

    module = SimpleNamespace(slow=slow)
    watch = Stopwatch(module, ["slow"], factor=10)

    def run():
        module.slow(2.0)
        clock[0] += 1.0
        module.slow(2.0)

    watch.around(run)()
    assert module.slow is slow
    assert watch.stretch(5.0, 5.0) == (41.0, 41.0)


def test_updates_of_both_sides_are_held_against_each_other():
    left, right = torch.randn(4, 2), torch.randn(2, 6)
    ours = of_deltas([WeightDelta("a", left, right)])
    assert apart(ours, of_host({"a.weight": (right.T, left)})) < 1e-6
    u, v = torch.randn(6), torch.randn(4)
    assert torch.allclose(of_host({"a.weight": (u, v)})["a"], torch.outer(v, u))
    assert apart({"a": ours["a"] * 1.5}, ours) == pytest.approx(0.5)


def test_shapes_and_requests():
    model, tokenizer = model_of(str(FOLDER), hparams=str(SETTINGS))
    assert len({one.prompt for one in requests(100)}) == 100
    assert all(one.subject in one.prompt for one in [*requests(100), *cluster(9)])
    found = contexts(tokenizer)
    assert len(found) == 21
    assert all(template.count("{}") == 1 for template in found)
    assert Passes(model).of(lambda: model(torch.tensor([[5]]))) == 1
    assert tiny_model("gpt2").config.n_layer == 4


@pytest.mark.parametrize("case", ["rome-1", "rome-32", "cluster-9", "memit-100", "ft-m", "lora", "evaluate-20"])
def test_without_easyedit_it_says_what_is_missing(case, monkeypatch):
    def nowhere():
        raise HostError("EasyEdit was not found.")

    monkeypatch.setattr(host, "find_host", nowhere)
    monkeypatch.setattr(sys, "argv", ["speed", case])
    with pytest.raises(SystemExit, match="EASYEDIT_HOME"):
        command.main()


def test_a_case_is_printed_and_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(machine, "multiplication_rate", lambda device: 100.0)
    monkeypatch.setattr(machine, "thin_rate", lambda rows: 50.0)
    monkeypatch.setattr("benchmarks.speed.swap.TURNS", 2)
    out = tmp_path / "swap.json"
    monkeypatch.setattr(sys, "argv", ["speed", "swap", *SMALL, "--pairs", "2", "--json", str(out)])
    assert command.main() == 0
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept == json.loads(capsys.readouterr().out)
    assert {"case", "ratio", "ours", "theirs", "difference", "machine"} <= kept.keys()
    assert {"median", "min", "max", "n"} <= kept["ratio"].keys()
    assert kept["difference"] < 1e-4
    assert kept["machine"]["threads"] == torch.get_num_threads()
