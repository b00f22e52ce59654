"""``easyedit-personal models settings``: any model's settings as a YAML file with comments, to keep and change."""

from __future__ import annotations

import typer


def settings(
    name: str = typer.Argument(..., help="A known model's name, a local folder, a GGUF file, or a hub name."),
) -> None:
    """Write a model's settings as YAML: the shipped ones, or those derived from a measured model."""
    from ..settings.resolve import settings_text

    print(settings_text(name), end="")
