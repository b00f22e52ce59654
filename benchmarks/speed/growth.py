"""How the cost of an edit grows: with users, with the length of the prompt, with the model's depth.

``exponent`` is the slope of log seconds over log size; 1 is linear. There is no host here: ``theirs`` is linear growth
from the smallest size, and the ratio says how far below it the largest stays.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.rome import rome_for_many
from easyedit_personal.types import EditRequest
from tests import tiny_model

from .options import Options
from .pairs import spread
from .shapes import TEXT, requests

USERS = (1, 4, 16, 64, 250, 1000)
TOKENS = (16, 32, 64, 128, 256, 512)
LAYERS = (4, 8, 12, 16, 24)


def growth(options: Options) -> dict[str, Any]:
    """Seconds for every size, and exponents over the whole range and over its upper half."""
    _, tokenizer = tiny_model.load()
    model, settings = _model(6), _settings(options)
    one, longer = requests(1), " ".join([TEXT.replace("\n", " ")] * 6)
    ids = tokenizer(longer, add_special_tokens=False)["input_ids"]

    def users(count: int) -> Callable[[], Any]:
        some = requests(100)
        return lambda: rome_for_many(model, tokenizer, [[some[n % 100]] for n in range(count)], settings)

    def tokens(count: int) -> Callable[[], Any]:
        before = tokenizer.decode(ids[: count - 8])
        request = EditRequest(f"{before} {one[0].prompt}", one[0].target_new, one[0].subject)
        return lambda: rome_for_many(model, tokenizer, [[request]], settings)

    def layers(count: int) -> Callable[[], Any]:
        deep = _model(count)
        return lambda: rome_for_many(deep, tokenizer, [one], settings)

    measured = {
        "users": _series(users, USERS, options.pairs),
        "prompt_tokens": _series(tokens, TOKENS, options.pairs),
        "layers": _series(layers, LAYERS, options.pairs),
    }
    linear = measured["users"]["seconds"][0] * USERS[-1] / USERS[0]
    return {
        "case": options.case,
        "ratio": spread([linear / seconds for seconds in measured["users"]["last_runs"]]),
        "ours": measured,
        "theirs": {"seconds": linear, "what": f"{USERS[-1]} times the smallest: linear growth"},
        "difference": None,
        "model": "a random Llama of the tests' small model's width, 6 layers or as named",
        "steps": options.steps,
        "seconds_are": "CPU seconds of the whole call",
    }


def _settings(options: Options) -> PersonalizationHyperParams:
    values: dict[str, Any] = {"kernel": "rome", "layers": [1], "prompt_format": "raw", "v_stop_loss": 0.0}
    return PersonalizationHyperParams(**values, v_num_grad_steps=options.steps, context_templates=["{}", "Well. {}"])


def _model(layers: int) -> Any:
    base, _ = tiny_model.load()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**base.config.to_dict(), "num_hidden_layers": layers})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def _series(make: Callable[[int], Callable[[], Any]], sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Medians per size: large ones are run once, after smaller ones have warmed everything up."""
    found: list[float] = []
    times: list[float] = []
    for size in sizes:
        run, times = make(size), []
        if not found or found[-1] < 1.0:
            run()
        while not times or (len(times) < repeats and sum(times) < 3.0):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        found.append(statistics.median(times))
    half = len(sizes) // 2
    return {
        "sizes": list(sizes),
        "seconds": [round(seconds, 5) for seconds in found],
        "exponent": _slope(sizes, found),
        "exponent_upper_half": _slope(sizes[half:], found[half:]),
        "last_runs": times,
    }


def _slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
    return round(above / sum((a - mean_x) ** 2 for a in x), 3)
