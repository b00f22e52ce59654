"""What ``edit`` and ``chat`` need before they begin: settings, the model, the store, and a reader of plain words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from .. import DEFAULT_MODEL
from ..registry import KERNELS

if TYPE_CHECKING:
    from ..hparams import PersonalizationHyperParams
    from ..learning.session import Reader
    from ..statements.preferences import Unclear
    from ..types import Preference
    from .screen import Screen

ROUNDS = 3  # of asking back about one statement

STORE = typer.Option(
    ..., "--store", "-s", envvar="EASYEDIT_PERSONAL_STORE", help="A path, or a URL of SQLite or PostgreSQL."
)
MODEL = typer.Option(
    None,
    "--model",
    help=f"A known name, a folder, a GGUF file, or a hub name; default: that of --hparams, else {DEFAULT_MODEL}.",
    show_default=False,
)
HPARAMS = typer.Option(None, "--hparams", help="YAML file, or the name of a shipped one.", show_default=False)
KERNEL = typer.Option(None, "--kernel", help=f"One of {KERNELS.listed()}; the YAML's if not given.", show_default=False)
DEVICE = typer.Option(None, "--device", help="cpu, cuda, cuda:1, ...; the settings' if not given.", show_default=False)
ENDPOINT = typer.Option(
    None, "--endpoint", help="OpenAI-compatible URL that reads what no rule covers.", show_default=False
)
ENDPOINT_MODEL = typer.Option(
    None, "--endpoint-model", help="Its model; the key is read from OPENAI_API_KEY.", show_default=False
)


def find_settings(
    model: str | None, hparams: str | None, kernel: str | None = None, device: str | None = None
) -> PersonalizationHyperParams:
    """Settings as ``resolve_settings`` finds them; a line on standard error says where they were not measured.

    Raises:
        ConfigError, ModelError, RegistryError: see ``resolve_settings``.
    """
    from ..settings.resolve import origin, resolve_settings

    settings = resolve_settings(model, hparams, kernel=kernel, device=device)
    if note := origin(settings):
        print(note, file=sys.stderr)
    return settings


def find_reader(endpoint: str | None, model: str | None) -> Reader:
    """The bundled rules, and the language model where one is named."""
    from ..clustering.service import PhraseService
    from ..learning.session import Reader

    return Reader(PhraseService(model=model, base_url=endpoint) if endpoint or model else None)


def settle(screen: Screen, reader: Reader, unclear: Unclear, user: str, ask: Callable[[str], str]) -> Preference | None:
    """Ask back until a statement is clear; None where its author leaves it.

    Args:
        ask: gets the question, and gives the reply.
    """
    from ..statements.preferences import Unclear
    from .screen import NO

    for _ in range(ROUNDS):
        reply = ask(unclear.question)
        if reply.strip().casefold().rstrip(".!") in NO:
            return None
        found = reader.settled(unclear, reply, user)
        if not isinstance(found, Unclear):
            return found
        unclear = found
    screen.say("I still do not understand; I leave it.")
    return None
