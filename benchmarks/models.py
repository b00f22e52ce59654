"""Which model a benchmark runs on: the package's default, or what ``--model`` and ``--hparams`` name."""

from __future__ import annotations

import argparse
from typing import Any

from easyedit_personal import DEFAULT_MODEL, PersonalizationHyperParams
from easyedit_personal.cli.session import find_settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--hparams``, as the commands have them."""
    parser.add_argument("--model", help=f"a name, a folder or a hub id (default: {DEFAULT_MODEL})")
    parser.add_argument("--hparams", help="YAML file, or the name of a shipped one (default: the model's)")


def chosen(options: Any, kernel: str | None = None) -> PersonalizationHyperParams:
    """The settings, for ``load_model`` and for edits.

    Args:
        options: what a parser with ``add_options`` has read.
        kernel: another than the settings' own.
    """
    return find_settings(options.model, options.hparams, kernel, getattr(options, "device", "cpu"))
