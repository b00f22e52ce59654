"""``python -m benchmarks.speed CASE [--json FILE] [--pairs N]``: one case, its ratio, and how far from the limit.

Both sides work in the same process on the same model, one after the other, with the number of threads that
OMP_NUM_THREADS says. Warm-up runs count operations and memory. The ratio is theirs over ours, taken pair by pair.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from easyedit_personal import DEFAULT_MODEL
from easyedit_personal.errors import PersonalizationError

from .machine import setup
from .options import Options

# Case -> (function, model, steps, requests for the host): what fits into about four minutes on one core.
CASES: dict[str, tuple[str, str, int, int]] = {
    "rome-1": ("edits:rome_1", "gpt2", 10, 0),
    "rome-32": ("edits:rome_32", "gpt2", 5, 1),
    "cluster-9": ("edits:cluster_9", "gpt2", 5, 1),
    "memit-100": ("edits:memit_100", "gpt2", 5, 1),
    "ft-m": ("learning:ft_m", DEFAULT_MODEL, 0, 0),
    "lora": ("learning:lora", DEFAULT_MODEL, 0, 0),
    "users-16": ("users:users_16", DEFAULT_MODEL, 0, 2),
    "one-user": ("users:one_user", DEFAULT_MODEL, 0, 0),
    "stream": ("writing:stream", DEFAULT_MODEL, 0, 0),
    "batch-16": ("writing:batch_16", DEFAULT_MODEL, 0, 0),
    "memory": ("memory:memory", DEFAULT_MODEL, 0, 0),
    "swap": ("swap:swap", "gpt2", 0, 0),
    "evaluate-20": ("evaluation:evaluate_20", DEFAULT_MODEL, 20, 2),
    "growth": ("growth:growth", "llama", 3, 0),
}


def main() -> int:
    """Run one case, print it, and keep it where ``--json`` says."""
    args = _arguments()
    function, model, steps, sample = CASES[args.case]
    module, _, name = function.partition(":")
    run = getattr(importlib.import_module(f"benchmarks.speed.{module}"), name)
    with tempfile.TemporaryDirectory() as folder:
        options = Options(
            args.case,
            args.model or model,
            args.pairs,
            steps if args.steps is None else args.steps,
            sample if args.sample is None else args.sample,
            Path(folder),
            args.device,
            args.hparams,
            args.gguf,
            args.users,
        )
        try:
            result = run(options)
        except PersonalizationError as error:
            raise SystemExit(str(error)) from None
    result["machine"] = setup(args.device)
    for side in ("ours", "theirs"):
        if rate := result[side].get("gflop_per_s"):
            result[side]["share_of_matmul_rate"] = round(rate / result["machine"]["matmul_gflop_per_s"], 3)
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--json", type=Path, help="where the figures are kept")
    parser.add_argument("--pairs", type=int, default=7, help="how many times each side is timed (default 7)")
    parser.add_argument("--model", help="gpt2 or llama (random), or a model to load; default: the case's own")
    parser.add_argument("--hparams", help="YAML file for a model that is loaded (default: that of its name)")
    parser.add_argument("--users", type=int, default=0, help="evaluate-20: fewer users")
    parser.add_argument("--gguf", help="stream: the same model for llama.cpp, which needs the package xllamacpp")
    parser.add_argument("--steps", type=int, help="steps of the optimisation, on both sides")
    parser.add_argument("--device", default="cpu", help="cpu or cuda: where the model is, for cases of edits")
    parser.add_argument("--sample", type=int, help="how many of the requests EasyEdit is given; 0: all")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
