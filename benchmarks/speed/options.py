"""What a case is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """One call of the benchmark.

    Attributes:
        case: its name.
        model: "gpt2", "llama", or a model to load, see ``shapes``.
        hparams: a YAML file for a model that is loaded.
        pairs: how many times each side is timed.
        steps: of the optimisation, on both sides.
        sample: how many of a case's requests EasyEdit is given, since it takes them one by one; seconds are per
            request. 0 gives it all of them.
        device: where the models of ``edits`` and ``learning`` are.
        users: how many, for ``evaluate-20``; 0 takes its own number.
        gguf: the same model for llama.cpp, for ``stream``.
        stats_dir: where second moments are kept; both sides read the same.
    """

    case: str
    model: str
    pairs: int
    steps: int
    sample: int
    stats_dir: Path
    device: str = "cpu"
    hparams: str | None = None
    gguf: str | None = None
    users: int = 0
