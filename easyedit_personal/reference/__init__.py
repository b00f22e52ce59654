"""The small chat model that ships with the package, so that everything runs without a model hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ModelError

# EasyEdit picks its loader by a name in the path: the folder must have "llama" in it.
FOLDER = Path(__file__).parent / "llama-personal"


def load(folder: Path | None = None) -> tuple[Any, Any]:
    """The reference model (``LlamaForCausalLM``, float32, evaluation mode) and its tokenizer; a fresh pair each call.

    Args:
        folder: one that ``reference.train`` has written; without, the model that is shipped.

    Raises:
        ModelError: the weights are not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = folder or FOLDER
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            "The reference model's weights are not installed.",
            needed=f"model.safetensors in {folder.name}/",
            cause="an incomplete installation",
            remedy="install the package again, or train it: python -m easyedit_personal.reference.train --out FOLDER",
        )
    with _without_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Loading takes a tenth of a second; a progress bar for it would only be noise."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
