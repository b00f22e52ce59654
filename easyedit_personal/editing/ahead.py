"""What the edits of a model share, learned before the first of them: else its user waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..hparams import PersonalizationHyperParams
from ..kernels.kinds import kind_of
from ..kernels.natural import shared_by_users
from ..modeling.memory import enough_for
from ..types import EditRequest
from .health_reading import read_ahead


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is on disk for the edits of a model.

    Attributes:
        folders: where.
        nbytes: how much in all.
        kinds: everyday names of the kinds that were asked for.
    """

    folders: tuple[Path, ...]
    nbytes: int
    kinds: tuple[str, ...]


def learn_ahead(
    model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams, kinds: Sequence[str] = ()
) -> Ahead:
    """Compute what all edits of a base model share, and what all of some kinds do, and keep it on disk.

    Each part is kept as soon as it is there: the same call goes on where it was stopped, and other processes use it.

    Args:
        model: without edits; bit for bit the same afterwards.
        kinds: names such as "hobby" or "favorite drink"; a name that the lexicon does not know is a kind of its own.

    Raises:
        ConfigError: edits with these settings share nothing, or a name is empty.
    """
    if hparams.kernel != "lowrank" or hparams.answers != "natural":
        raise ConfigError(
            "Edits with these settings share nothing that could be learned ahead.",
            got=f"kernel: {hparams.kernel}, answers: {hparams.answers}",
            needed="kernel: lowrank with answers: natural",
        )
    asked = {name: kind_of([EditRequest("What?", "", name)]) for name in kinds if name.strip()}
    if len(asked) < len(set(kinds)):
        raise ConfigError("A kind of preference needs a name.", got="an empty one", needed='for example "hobby"')
    known = [kind for kind in dict.fromkeys(asked.values()) if kind is not None]
    with enough_for("what edits share", model):
        ground, _ = shared_by_users(model, tokenizer, known, hparams)
        read = read_ahead(model, tokenizer, hparams)
    folders = (ground.folder, *((read,) if read else ()))
    nbytes = sum(file.stat().st_size for folder in folders for file in folder.glob("*") if file.is_file())
    return Ahead(folders, nbytes, tuple(kind.name for kind in known))
