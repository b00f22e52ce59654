"""Draw the loss curve from a training log: ``python -m tests.tiny_model.curve LOG PNG``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .recipe import Recipe


def draw(log: Path, picture: Path) -> None:
    """Loss of the full-weight tokens against tokens seen, with the stages marked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    entries = [json.loads(line) for line in log.read_text().splitlines()]
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot([entry["tokens"] / 1e6 for entry in entries], [entry["loss"] for entry in entries], color="black")
    done, top = 0, max(entry["loss"] for entry in entries)
    for stage in Recipe().stages:
        begins = next((entry["tokens"] / 1e6 for entry in entries if entry["step"] > done), None)
        if begins is not None:
            axes.axvline(begins, color="grey", linewidth=0.8, linestyle=":")
            axes.text(begins, top, f" {stage.name}", va="top", color="dimgrey")
        done += stage.steps
    axes.set(xlabel="tokens seen (millions)", ylabel="loss (nats per token)", ylim=(0, None))
    figure.savefig(picture, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw a training log's loss curve.")
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    draw(options.log, options.picture)


if __name__ == "__main__":
    main()
