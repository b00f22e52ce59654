"""Tokens of a user's answer beside those of the base model: one stream, and sixteen users in one batch.

``stream``: ``PersonalizedModel.stream_for``, every piece taken, against the base model's ``transformers.generate``.
``batch-16``: ``generate_for``, sixteen users with factors of their own, against the same batch of the base model. Both
write the same number of tokens; seconds are per token, so a ratio of 0.9 is nine tenths of the base model's rate.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from easyedit_personal import EditStore, PersonalizedModel, WeightDelta, generate
from easyedit_personal.cli.session import find_settings
from easyedit_personal.generation.generate import encode_prompt
from easyedit_personal.kernels.apply import relative_norm
from easyedit_personal.modeling.layout import find_layout

from .edits import report
from .options import Options
from .pairs import Side, compare
from .shapes import model_of

TOKENS, RANK, SIZE = 48, 14, 0.05  # of an answer; of a user's factors, and their size beside the matrix
TASKS = ("Write a story about a lighthouse.", "Explain how bread is made.", "Describe a walk in the mountains.")


def stream(options: Options) -> dict[str, Any]:
    """One user's stream."""
    with _served(options, 1) as (model, tokenizer, served):
        row = torch.tensor([encode_prompt(tokenizer, TASKS[0]).prompt_ids])
        settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}
        library = lambda: model.generate(row, attention_mask=torch.ones_like(row), **settings)
        ours = lambda: "".join(served.stream_for("user 0", TASKS[0], max_new_tokens=TOKENS))
        result = _compared(options, model, ours, library, _count(tokenizer, [ours()]), TOKENS)
    return {**result, "llama_cpp": llama_cpp(options.gguf)} if options.gguf else result


def llama_cpp(gguf: str, runs: int = 3) -> dict[str, Any]:
    """What llama.cpp takes per token of the same task on one thread, as its Python package ``xllamacpp`` runs it.

    Prompt left out: it is read once before. The file's weights are quantised, ours are float32.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = gguf, 512, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    asked = {"messages": [{"role": "user", "content": TASKS[0]}], "max_tokens": TOKENS, "temperature": 0}
    server.handle_chat_completions(asked)
    seconds = []
    for _ in range(runs):
        used = time.process_time()
        answer = server.handle_chat_completions(asked)
        seconds.append((time.process_time() - used) / answer["usage"]["completion_tokens"])
    return {"cpu_seconds": round(statistics.median(seconds), 6), "file_mib": round(Path(gguf).stat().st_size / 2**20)}


def batch_16(options: Options) -> dict[str, Any]:
    """Sixteen users in one batch."""
    with _served(options, 16) as (model, tokenizer, served):
        users, prompts = [f"user {n}" for n in range(16)], [TASKS[n % len(TASKS)] for n in range(16)]
        ours = lambda: served.generate_for(users, prompts, max_new_tokens=TOKENS)
        base = lambda: generate(model, tokenizer, prompts, max_new_tokens=TOKENS)
        counts = [sum(len(answer.tokens) + answer.stopped for answer in way()) for way in (ours, base)]
        return _compared(options, model, ours, base, *counts)


def _compared(options: Options, model: Any, ours: Any, base: Any, mine: int, theirs: int) -> dict[str, Any]:
    outcome = compare(Side(ours, mine), Side(base, theirs), options.pairs, model)
    return report(options, outcome, None, tokens={"ours": mine, "theirs": theirs}, seconds_are="per token")


def _count(tokenizer: Any, texts: list[str]) -> int:
    return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


@contextmanager
def _served(options: Options, users: int) -> Iterator[tuple[Any, Any, PersonalizedModel]]:
    """A loaded model, and users whose factors are random: time does not depend on their values."""
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    layers = find_settings(options.model, options.hparams, "lowrank", options.device).layers
    with tempfile.TemporaryDirectory() as folder, EditStore.open(Path(folder) / "edits.db", model) as store:
        for number in range(users):
            store.put(f"user {number}", [_factors(model, layer, number) for layer in layers])
        yield model, tokenizer, PersonalizedModel(model, tokenizer, store)


def _factors(model: nn.Module, layer: int, seed: int) -> WeightDelta:
    layout, draw = find_layout(model), torch.Generator().manual_seed(seed)
    left = torch.randn(layout.d_model, RANK, generator=draw)
    delta = WeightDelta(layout.rewrite_path(layer), left, torch.randn(RANK, layout.d_mlp, generator=draw))
    return WeightDelta(delta.layer, left * (SIZE / relative_norm(model, [delta])), delta.right)
