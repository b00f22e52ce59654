"""The YAML files: ``hparams/PersonalizationEditor/<model>.yaml`` in a checkout; they travel inside the wheel."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, did_you_mean

ALG_NAME: Literal["PersonalizationEditor"] = "PersonalizationEditor"


def shipped_yaml() -> dict[str, Path]:
    """The YAML files at hand by model name: those of a checkout, or those inside the wheel."""
    checkout = Path(__file__).resolve().parents[2] / "hparams" / ALG_NAME
    installed = Path(str(resources.files("easyedit_personal"))) / "_hparams" / ALG_NAME
    folder = checkout if checkout.is_dir() else installed
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def find_yaml(name_or_path: str | Path) -> Path:
    """Resolve a path, a path without ".yaml", EasyEdit's usual relative path, or a shipped name."""
    given = Path(name_or_path)
    for path in (given, given.with_name(given.name + ".yaml")):
        if os.path.isfile(path):  # Path.is_file raises where a name is too long
            return path
    shipped = shipped_yaml()
    stem = given.name.removesuffix(".yaml")
    if stem in shipped and (len(given.parts) == 1 or given.parts[-2:-1] == (ALG_NAME,)):
        return shipped[stem]
    raise ConfigError(
        f"There is no hyper-parameter file {str(name_or_path)!r}.{did_you_mean(stem, shipped, cutoff=0.4)}",
        needed=f"a path, or one of {', '.join(shipped) or '(none installed)'}",
    )
