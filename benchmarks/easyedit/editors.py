"""EasyEdit's editors with settings of ours, as ``benchmarks.sweep`` takes an editor, and the settings that it chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from benchmarks.sweep import Editor
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.integrations.easyedit import host_method
from easyedit_personal.integrations.easyedit.host_methods import PREFIX

HERE = Path(__file__).parent
CHOSEN = HERE / "chosen-smollm2.yaml"
# The methods that matter most first.
EDITORS = (
    *("FT-M", "LoRA", "ROME", "GRACE", "MEMIT", "R-ROME", "EMMET", "AlphaEdit", "FT-L", "WISE", "ULTRAEDIT"),
    *("EAMET", "SPHERE", "DEFER", "MEMIT-FE", "CORE", "PMET"),
)


def grids() -> dict[str, dict[str, Any]]:
    """By method: ``cluster``, ``fixed`` and ``grid`` of grids.yaml."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "grids.yaml").read_text(encoding="utf-8"))
    return found


def chosen_settings() -> dict[str, dict[str, Any]]:
    """By method, the keys that the sweep chose; a method without a trial keeps the host's."""
    return yaml.safe_load(CHOSEN.read_text(encoding="utf-8")) or {}


def with_chosen(hparams: PersonalizationHyperParams) -> PersonalizationHyperParams:
    """Settings under which ``easyedit:NAME`` takes what the sweep chose."""
    return hparams.replace(baselines={f"{PREFIX}{name}": keys for name, keys in chosen_settings().items()})


def editor_of(name: str, overrides: Mapping[str, Any]) -> Editor:
    """One of the host's, for ``benchmarks.sweep.run``.

    Raises:
        HostError, MissingDependencyError: as ``host_method``.
    """
    method = host_method(name, overrides)

    @contextmanager
    def edit(model: nn.Module, tokenizer: Any, requests: Any, hparams: Any) -> Iterator[tuple[nn.Module, int]]:
        with method(model, tokenizer, requests, hparams) as changed:
            yield changed, method.nbytes

    return edit
