"""What does it cost that every row of a batch is another user's model?

``python -m benchmarks.serving [--json FILE] [--rounds 11] [--users 2 16 64]`` lets 2, 16 and 64 users ask a model
(``--model``) one question each, in one batch, and prints throughput as a ratio to the same batch without any user:

- hooks: our factor hooks (``multi_adapter``), the same greedy loop as the un-personalised batch;
- peft: PEFT's mixed-adapter batches (``adapter_names=``) of the same factors, exported by ``store.lora``, in the same
  loop; and in the library's ``generate``, against the un-personalised library's ``generate``;
- ranks: hooks, where users have ranks 4, 16 and 64 in turn;
- one by one: each user in place (``as_user``), one after the other;
- shared: hooks, after the same conversation of some 110 tokens, against the base model, which reads what all rows share
  once; users' models share it up to the edited layer;
- service: ``PersonalizedModel.generate_for`` over an ``EditStore``, with natural stop, against ``generate`` of the base
  model; and ``stream_for``, all listeners taking pieces in turn.

Factors are random, of rank 16 at 80 % of the depth: time does not depend on their values. They are as large as the
matrix, so that answers change and equal rows prove something; in "service" and "streams" a twentieth of it, so that
answers end when the base model's do. Every row writes exactly 32 tokens, except in those two. One thread.

All ways take turns in every round; medians and quartiles are of the ratios within a round, by the process's CPU time,
which other processes hardly touch (with one thread it is wall time on an idle machine); the ratio by wall time beside.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import GenerationConfig

from benchmarks.models import add_options, chosen
from benchmarks.rounds import Way, measure
from easyedit_personal.evaluate.provenance import commit
from easyedit_personal.generation.generate import encode_prompt, generate
from easyedit_personal.generation.greedy import continue_all
from easyedit_personal.kernels.apply import in_weights, relative_norm
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.modeling.tokens import Encoded, collate
from easyedit_personal.serving.multi_adapter import merged, mixed
from easyedit_personal.serving.personalized import PersonalizedModel
from easyedit_personal.store.lora import export_lora
from easyedit_personal.store.store import EditStore
from easyedit_personal.types import WeightDelta

DEPTH, RANK, NEW_TOKENS = 0.8, 16, 32
LOUD, QUIET = 1.0, 0.05  # size of an update, relative to the matrix
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
AGAINST = {
    **dict.fromkeys(("base", "hooks", "peft", "ranks", "one by one"), "base"),
    **dict.fromkeys(("shared base", "shared"), "shared base"),
    **dict.fromkeys(("library base", "library peft"), "library base"),
    **dict.fromkeys(("service base", "service", "streams"), "service base"),
}


def random_factors(model: nn.Module, seed: int, rank: int = RANK, size: float = LOUD) -> WeightDelta:
    """A user's update: random, ``size`` times as large as the matrix."""
    layout = find_layout(model)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(layout.d_model, rank, generator=generator)
    delta = WeightDelta(
        layout.rewrite_path(int(DEPTH * layout.n_layers)), left, torch.randn(rank, layout.d_mlp, generator=generator)
    )
    return WeightDelta(delta.layer, left * (size / relative_norm(model, [delta])), delta.right)


class WithAdapters(nn.Module):
    """A PEFT model that knows which adapter each row of the next forward pass has, so that our loop can drive it."""

    def __init__(self, wrapped: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.wrapped, self.names, self.rows = wrapped, list(names), list(range(len(names)))
        self.config = wrapped.config

    def set_rows(self, rows: Sequence[int]) -> None:
        """The next forward pass has these rows."""
        self.rows = list(rows)

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> Any:
        """PEFT's mixed batch."""
        names = [self.names[row] for row in self.rows]
        return self.wrapped(adapter_names=names, logits_to_keep=logits_to_keep, **inputs)


class Crowd:
    """Users, their factors, and one question of each."""

    def __init__(self, model: nn.Module, tokenizer: Any, users: int, store: EditStore) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.names = [f"user{i}" for i in range(users)]
        self.prompts = [QUESTIONS[i % len(QUESTIONS)] for i in range(users)]
        self.rows = [encode_prompt(tokenizer, prompt) for prompt in self.prompts]
        self.talks = [encode_prompt(tokenizer, [*TALK, {"role": "user", "content": prompt}]) for prompt in self.prompts]
        self.edits = [random_factors(model, seed) for seed in range(users)]
        self.various = [random_factors(model, seed, MIXED_RANKS[seed % 3]) for seed in range(users)]
        for seed, name in enumerate(self.names):
            store.put(name, [random_factors(model, seed, size=QUIET)])
        self.served = PersonalizedModel(model, tokenizer, store)
        self.spoken = said(self.service())

    def write(self, model: nn.Module, rows: Sequence[Encoded], **options: Any) -> list[list[int]]:
        """``NEW_TOKENS`` tokens for every row, in one batch, whatever they are."""
        limits = [NEW_TOKENS] * len(rows)
        return continue_all(model, self.tokenizer, rows, [list(range(len(rows)))], limits, frozenset(), **options)

    def hooks(self, edits: Sequence[WeightDelta], rows: Sequence[Encoded]) -> list[list[int]]:
        """Our factor hooks."""
        with mixed(self.model, [merged([delta]) for delta in edits]) as adapters:
            return self.write(self.model, rows, owners=self.names, set_rows=adapters.set_rows)

    def one_by_one(self) -> list[list[int]]:
        """Everybody's model in place, in turn."""
        outs = []
        for delta, row in zip(self.edits, self.rows):
            with in_weights(self.model, [delta]):
                outs += self.write(self.model, [row])
        return outs

    def library(self, model: Any, **options: Any) -> int:
        """The library's loop; the number of tokens written."""
        batch = collate(self.rows, self.tokenizer, side="left")
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        out = model.generate(**inputs, generation_config=settings, **options)
        return len(self.names) * (out.shape[1] - batch.input_ids.shape[1])

    def service(self) -> list[Any]:
        """What a web service calls."""
        return self.served.generate_for(self.names, self.prompts, max_new_tokens=NEW_TOKENS)

    def streams(self) -> int:
        """The same answers piece by piece; the number of their tokens."""
        asked = zip(self.names, self.prompts)
        for _ in zip_longest(*(self.served.stream_for(name, text, max_new_tokens=NEW_TOKENS) for name, text in asked)):
            pass
        return self.spoken

    def adapters(self) -> tuple[Any, float]:
        """A second copy of the model with one PEFT adapter per user, and the seconds of loading them."""
        model = copy.deepcopy(self.model)
        with tempfile.TemporaryDirectory() as folder:
            paths = [export_lora([delta], Path(folder) / name) for name, delta in zip(self.names, self.edits)]
            start = time.perf_counter()
            wrapped: Any = peft.PeftModel.from_pretrained(model, paths[0], adapter_name=self.names[0])
            for name, path in zip(self.names[1:], paths[1:]):
                wrapped.load_adapter(path, adapter_name=name)
            return wrapped.eval(), time.perf_counter() - start


def compare(crowd: Crowd, rounds: int) -> dict[str, Any]:
    """All ways, and whether they say the same."""
    wrapped, load_seconds = crowd.adapters()
    loop = WithAdapters(wrapped, crowd.names)
    model, rows = crowd.model, crowd.rows
    alone, together = crowd.one_by_one(), crowd.hooks(crowd.edits, rows)
    ways: dict[str, Way] = {
        "base": lambda: count(crowd.write(model, rows)),
        "hooks": lambda: count(crowd.hooks(crowd.edits, rows)),
        "peft": lambda: count(crowd.write(loop, rows, set_rows=loop.set_rows)),
        "ranks": lambda: count(crowd.hooks(crowd.various, rows)),
        "one by one": lambda: count(crowd.one_by_one()),
        "shared base": lambda: count(crowd.write(model, crowd.talks)),
        "shared": lambda: count(crowd.hooks(crowd.edits, crowd.talks)),
        "library base": lambda: crowd.library(model),
        "library peft": lambda: crowd.library(wrapped, adapter_names=crowd.names),
        "service base": lambda: said(generate(model, crowd.tokenizer, crowd.prompts, max_new_tokens=NEW_TOKENS)),
        "service": lambda: said(crowd.service()),
        "streams": crowd.streams,
    }
    return {
        "peft_load_seconds": round(load_seconds, 3),
        "rows_equal_hooks_and_one_by_one": share(together, alone),
        "rows_equal_peft_and_one_by_one": share(crowd.write(loop, rows, set_rows=loop.set_rows), alone),
        "rows_unlike_base": 1 - share(crowd.write(model, rows), alone),
        "ways": measure(ways, rounds, AGAINST),
    }


def count(outs: Sequence[Sequence[int]]) -> int:
    """Number of tokens written."""
    return sum(map(len, outs))


def said(answers: Sequence[Any]) -> int:
    """Number of tokens in answers, the ones that ended them included."""
    return sum(len(answer.tokens) + answer.stopped for answer in answers)


def share(first: Sequence[Any], second: Sequence[Any]) -> float:
    """Share of rows that are the same."""
    return sum(a == b for a, b in zip(first, second)) / len(first)


def setup(model: str, rounds: int) -> dict[str, Any]:
    """What the figures depend on."""
    sizes = {"relative_norm": LOUD, "relative_norm_service": QUIET}
    return {
        "model": model,
        "factors": {"kind": "random", "rank": RANK, "depth": DEPTH, "mixed_ranks": MIXED_RANKS, **sizes},
        "new_tokens": NEW_TOKENS,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, CPU, shared with other processes",
        "commit": commit(),
    }


def show(results: dict[str, Any]) -> None:
    """The table on the terminal."""
    table = Table("users", "way", "tokens/s", "ratio", "quartiles", "wall")
    for users, result in results.items():
        for name, figures in result["ways"].items():
            quartiles = "-".join(f"{value:.2f}" for value in figures["quartiles"])
            speed, ratio = f"{figures['per_cpu_second']:.0f}", f"{figures['ratio']:.2f}"
            table.add_row(users, name, speed, ratio, quartiles, f"{figures['wall_ratio']:.2f}")
    Console().print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Throughput of batches in which every row is another user's.")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=11, help="at least 7 for a result that is kept")
    parser.add_argument("--users", type=int, nargs="+", default=[2, 16, 64])
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    hparams = chosen(options)
    model, tokenizer = load_model(hparams)
    results = {}
    for users in options.users:
        with tempfile.TemporaryDirectory() as folder, EditStore.open(Path(folder) / "edits.db", model) as store:
            results[str(users)] = compare(Crowd(model, tokenizer, users, store), options.rounds)
    show(results)
    if options.json:
        report = {"schema": 1, "setup": setup(str(hparams.model_name), options.rounds), "users": results}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
