"""What the edits of a model share, learned before the first of them: else its user waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError, shorten, text_fault
from ..hparams import PersonalizationHyperParams
from ..kernels.kinds import Kind, kind_of
from ..kernels.natural import shared_by_users
from ..modeling.memory import enough_for
from ..types import EditRequest
from .health_reading import read_ahead

LONGEST = 80  # characters of a kind's name


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
        ConfigError: see ``shared_kinds``; nothing was computed.
    """
    known = shared_kinds(hparams, kinds)
    with enough_for("what edits share", model):
        ground, _ = shared_by_users(model, tokenizer, known, hparams)
        read = read_ahead(model, tokenizer, hparams)
    folders = (ground.folder, *((read,) if read else ()))
    nbytes = sum(file.stat().st_size for folder in folders for file in folder.glob("*") if file.is_file())
    return Ahead(folders, nbytes, tuple(kind.name for kind in known))


def shared_kinds(hparams: PersonalizationHyperParams, names: Sequence[str]) -> list[Kind]:
    """The kinds of these names, each once; needs no model.

    Raises:
        ConfigError: edits with these settings share nothing, or a name is none.
    """
    if hparams.kernel != "lowrank" or hparams.answers != "natural":
        raise ConfigError(
            "Edits with these settings share nothing that could be learned ahead.",
            got=f"kernel: {hparams.kernel}, answers: {hparams.answers}",
            needed="kernel: lowrank with answers: natural",
        )
    for name in names:
        if text_fault(name) or len(name) > LONGEST:
            raise ConfigError(
                "This is no name of a kind of preference.",
                got=shorten(name),
                needed=f'one to {LONGEST} characters, for example "hobby" or "favorite drink"',
            )
    found = (kind_of([EditRequest("What?", "", name)]) for name in names)
    return list(dict.fromkeys(kind for kind in found if kind is not None))
