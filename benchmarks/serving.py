"""What does it cost that every row of a batch is another user's model?

``python -m benchmarks.serving [--json FILE] [--rounds 9] [--users 2 16 64]`` lets 2, 16 and 64 users ask the reference
model one question each, in one batch, and prints throughput as a ratio to the same batch without any user:

- hooks: our factor hooks (``kernels.mixed``), the same greedy loop as the un-personalised batch;
- peft: PEFT's mixed-adapter batches (``adapter_names=``) of the same factors, exported by ``store.lora``, in the same
  loop; and in the library's ``generate``, against the un-personalised library's ``generate``;
- ranks: hooks, where users have ranks 4, 16 and 64 in turn;
- one by one: each user in place (``as_user``), one after the other;
- shared: hooks, after the same conversation of some 110 tokens, against the base model, which reads what all rows share
  once; users' models share it up to the edited layer;
- service: ``PersonalizedModel.generate_for`` over an ``EditStore``, with natural stop, against ``generate`` of the base
  model; and ``stream_for``, all listeners taking pieces in turn.

Factors are random, of rank 16 at layer 3, as large as a twentieth of the matrix: time does not depend on their values,
and nothing here depends on what the model answers. Every row writes exactly 32 tokens, except in "service" and
"streams". One thread.
The ways take turns in every round; a ratio is taken within its round, and its median and quartiles over the rounds
are reported. Other processes on the machine disturb single rounds, not the median.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import GenerationConfig

from easyedit_personal import reference
from easyedit_personal.editing.personalized import PersonalizedModel
from easyedit_personal.evaluate.generate import encode_prompt, generate
from easyedit_personal.evaluate.greedy import continue_all
from easyedit_personal.evaluate.setup import commit
from easyedit_personal.kernels.apply import edited, relative_norm
from easyedit_personal.kernels.mixed import Factors, merged, mixed
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import Encoded, collate
from easyedit_personal.store.lora import export_lora
from easyedit_personal.store.store import EditStore
from easyedit_personal.types import WeightDelta

LAYER, RANK, NEW_TOKENS, SIZE = 3, 16, 32, 0.05
MIXED_RANKS = (4, 16, 64)
QUESTIONS = [
    "What's my hobby?",
    "What should I do this weekend?",
    "Which food do I like best?",
    "Can you recommend a present for me?",
    "Where would I like to travel?",
    "What is the capital of France?",
]
TALK = [
    {"role": "user", "content": "Hello! I have a question about a long journey by train through the mountains. " * 3},
    {"role": "assistant", "content": "Of course, tell me more about it, and about when you would like to travel. " * 3},
]
Way = Callable[[], int]  # runs once, returns the number of tokens written


def random_factors(model: nn.Module, seed: int, rank: int = RANK) -> WeightDelta:
    """A user's update: random, ``SIZE`` times as large as the matrix."""
    layout = find_layout(model)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(layout.d_model, rank, generator=generator)
    delta = WeightDelta(layout.rewrite_path(LAYER), left, torch.randn(rank, layout.d_mlp, generator=generator))
    return WeightDelta(delta.layer, left * (SIZE / relative_norm(model, [delta])), delta.right)


class WithAdapters(nn.Module):
    """A PEFT model that knows which adapter each row of the next forward pass has, so that our loop can drive it."""

    def __init__(self, wrapped: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.wrapped, self.names, self.rows = wrapped, list(names), list(range(len(names)))
        self.config = wrapped.config

    def seat(self, rows: Sequence[int]) -> None:
        """The next forward pass has these rows."""
        self.rows = list(rows)

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> Any:
        """PEFT's mixed batch."""
        names = [self.names[row] for row in self.rows]
        return self.wrapped(adapter_names=names, logits_to_keep=logits_to_keep, **inputs)


def write(model: nn.Module, tokenizer: Any, rows: Sequence[Encoded], **options: Any) -> list[list[int]]:
    """``NEW_TOKENS`` tokens for every row, in one batch, whatever they are."""
    limits = [NEW_TOKENS] * len(rows)
    return continue_all(model, tokenizer, rows, [list(range(len(rows)))], limits, frozenset(), **options)


def library_inputs(tokenizer: Any, rows: Sequence[Encoded]) -> dict[str, Any]:
    """What the library's ``generate`` takes for the same work."""
    batch = collate(rows, tokenizer, side="left")
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, eos_token_id=1, pad_token_id=0
    )
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "generation_config": settings}


def load_adapters(edits: dict[str, WeightDelta]) -> tuple[Any, float]:
    """A second copy of the reference model with one PEFT adapter per user, and the seconds of loading them."""
    model, _ = reference.load()
    with tempfile.TemporaryDirectory() as folder:
        paths = {user: export_lora([delta], Path(folder) / user) for user, delta in edits.items()}
        start = time.perf_counter()
        wrapped: Any = None
        for user, path in paths.items():
            if wrapped is None:
                wrapped = peft.PeftModel.from_pretrained(model, path, adapter_name=user)
            else:
                wrapped.load_adapter(path, adapter_name=user)
        return wrapped.eval(), time.perf_counter() - start


def make_ways(model: nn.Module, tokenizer: Any, users: int, store: EditStore) -> tuple[dict[str, Way], dict[str, Any]]:
    """Every way to answer ``users`` rows, and figures that need no repetition."""
    names = [f"user{i}" for i in range(users)]
    edits = {name: random_factors(model, seed) for seed, name in enumerate(names)}
    various = [random_factors(model, seed, MIXED_RANKS[seed % 3]) for seed in range(users)]
    prompts = [QUESTIONS[i % len(QUESTIONS)] for i in range(users)]
    rows = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    wrapped, load_seconds = load_adapters(edits)
    loop, inputs = WithAdapters(wrapped, names), library_inputs(tokenizer, rows)
    talk = [encode_prompt(tokenizer, [*TALK, {"role": "user", "content": prompt}]) for prompt in prompts]
    served = PersonalizedModel(model, tokenizer, filled(store, edits))
    owners: dict[str, Any] = {"owners": names}

    def hooks(factors: Sequence[Factors], asked: Sequence[Encoded] = rows) -> list[list[int]]:
        with mixed(model, factors) as seating:
            return write(model, tokenizer, asked, seat=seating.seat, **owners)

    def one_by_one() -> list[list[int]]:
        outs = []
        for name, row in zip(names, rows):
            with edited(model, [edits[name]]):
                outs += write(model, tokenizer, [row])
        return outs

    def streams() -> int:
        listeners = [served.stream_for(name, prompt, max_new_tokens=NEW_TOKENS) for name, prompt in zip(names, prompts)]
        for _ in zip_longest(*listeners):
            pass
        return spoken

    spoken = said(served.generate_for(names, prompts, max_new_tokens=NEW_TOKENS))

    def library(one: Any, **options: Any) -> int:
        out: Tensor = one.generate(**inputs, **options)
        return users * (out.shape[1] - inputs["input_ids"].shape[1])

    same, mixed_ranks = [merged([delta]) for delta in edits.values()], [merged([delta]) for delta in various]
    ways: dict[str, Way] = {
        "base": lambda: count(write(model, tokenizer, rows, **owners)),
        "hooks": lambda: count(hooks(same)),
        "peft": lambda: count(write(loop, tokenizer, rows, seat=loop.seat, **owners)),
        "ranks": lambda: count(hooks(mixed_ranks)),
        "one by one": lambda: count(one_by_one()),
        "shared base": lambda: count(write(model, tokenizer, talk)),
        "shared": lambda: count(hooks(same, talk)),
        "library base": lambda: library(model),
        "library peft": lambda: library(wrapped, adapter_names=names),
        "service base": lambda: said(generate(model, tokenizer, prompts, max_new_tokens=NEW_TOKENS)),
        "service": lambda: said(served.generate_for(names, prompts, max_new_tokens=NEW_TOKENS)),
        "streams": streams,
    }
    alone = one_by_one()
    agreement = {
        "rows_equal_hooks_and_one_by_one": share(hooks(same), alone),
        "rows_equal_peft_and_one_by_one": share(write(loop, tokenizer, rows, seat=loop.seat, **owners), alone),
        "rows_unlike_base": 1 - share(write(model, tokenizer, rows), alone),
    }
    return ways, {"peft_load_seconds": round(load_seconds, 3), **agreement}


def filled(store: EditStore, edits: dict[str, WeightDelta]) -> EditStore:
    """The store, with the edits in it."""
    for user, delta in edits.items():
        store.put(user, [delta], key="benchmark")
    return store


def count(outs: Sequence[Sequence[int]]) -> int:
    """Number of tokens written."""
    return sum(map(len, outs))


def said(answers: Sequence[Any]) -> int:
    """Number of tokens in answers, the ones that ended them included."""
    return sum(len(answer.tokens) + answer.stopped for answer in answers)


def share(first: Sequence[Any], second: Sequence[Any]) -> float:
    """Share of rows that are the same."""
    return sum(a == b for a, b in zip(first, second)) / len(first)


BASES = {"shared": "shared base", "shared base": "shared base", "library base": "library base"}
BASES |= {
    "service base": "service base",
    "library peft": "library base",
    "service": "service base",
    "streams": "service base",
}


def measure(ways: dict[str, Way], rounds: int) -> dict[str, dict[str, Any]]:
    """Throughput of every way and its ratio to its base, over rounds in which all take turns."""
    for run in ways.values():
        run()  # first calls build caches of their own
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            start = time.perf_counter()
            tokens = ways[name]()
            speeds[name].append(tokens / (time.perf_counter() - start))
    result = {}
    for name, own in speeds.items():
        against = BASES.get(name, "base")
        ratios = [mine / theirs for mine, theirs in zip(own, speeds[against])]
        result[name] = {"against": against, "tokens_per_second": round(statistics.median(own), 1), **spread(ratios)}
    return result


def spread(ratios: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and extremes."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def setup(rounds: int) -> dict[str, Any]:
    """What the figures depend on."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    return {
        "model": "reference",
        "factors": {"kind": "random", "rank": RANK, "layer": LAYER, "relative_norm": SIZE, "mixed_ranks": MIXED_RANKS},
        "new_tokens": NEW_TOKENS,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "versions": versions,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, CPU, shared with other processes",
        "commit": commit(),
    }


def show(results: dict[str, Any]) -> None:
    """The table on the terminal."""
    table = Table("users", "way", "tokens/s", "ratio", "quartiles", "range")
    for users, result in results.items():
        for name, figures in result["ways"].items():
            quartiles, extremes = ("-".join(f"{value:.2f}" for value in figures[key]) for key in ("quartiles", "range"))
            cells = (f"{figures['tokens_per_second']:.0f}", f"{figures['ratio']:.2f}", quartiles, extremes)
            table.add_row(users, name, *cells)
    Console().print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Throughput of batches in which every row is another user's.")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a result that is kept")
    parser.add_argument("--users", type=int, nargs="+", default=[2, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = reference.load()
    results = {}
    for users in options.users:
        with tempfile.TemporaryDirectory() as folder, EditStore.open(Path(folder) / "edits.db", model) as store:
            ways, facts = make_ways(model, tokenizer, users, store)
            results[str(users)] = {**facts, "ways": measure(ways, options.rounds)}
    show(results)
    if options.json:
        report = {"schema": 1, "setup": setup(options.rounds), "users": results}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
