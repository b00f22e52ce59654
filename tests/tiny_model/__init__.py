"""The tests' fixture: a chat model of 2.8 M parameters that was trained, so that edits have something to change.

``tests.tiny`` has random models of every architecture; this one answers. Nothing about methods is concluded from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from easyedit_personal.files import read_yaml_mapping
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.modeling.pretrained import pretrained

HERE = Path(__file__).parent
SETTINGS = HERE / "settings.yaml"
# EasyEdit picks its loader by a name in the path: the folder must have "llama" in it.
FOLDER = HERE / "llama-personal"


def load(folder: Path = FOLDER) -> tuple[Any, Any]:
    """The model (``LlamaForCausalLM``, float32, evaluation mode) and its tokenizer; a fresh pair each call.

    Args:
        folder: another that ``tests.tiny_model.train`` has written.
    """
    return pretrained(folder, dtype="float32")


def settings(**changes: Any) -> PersonalizationHyperParams:
    """``settings.yaml``, with the model's absolute folder and with changes."""
    return PersonalizationHyperParams(**_values()).replace(**changes)


def write_settings(path: Path) -> Path:
    """``settings.yaml`` with the model's absolute folder, for commands that run in another folder; the path."""
    path.write_text(yaml.safe_dump(_values()), encoding="utf-8")
    return path


def _values() -> dict[str, Any]:
    return {**read_yaml_mapping(SETTINGS), "model_name": str(FOLDER)}
