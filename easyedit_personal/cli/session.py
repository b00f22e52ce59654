"""What ``edit`` and ``chat`` need before they begin: settings, the model, the store, and a reader of plain words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from .. import DEFAULT_MODEL
from ..registry import KERNELS

if TYPE_CHECKING:
    from ..hparams import PersonalizationHyperParams
    from ..learning.session import Reader
    from ..statements.parser import Unclear
    from ..types import Preference
    from .screen import Screen

ROUNDS = 3  # of asking back about one statement

STORE = typer.Option(
    ..., "--store", "-s", envvar="EASYEDIT_PERSONAL_STORE", help="A path, or a URL of SQLite or PostgreSQL."
)
MODEL = typer.Option(
    None, "--model", help=f"A local folder or a hub name; default: {DEFAULT_MODEL}.", show_default=False
)
HPARAMS = typer.Option(None, "--hparams", help="YAML file, or the name of a shipped one.", show_default=False)
KERNEL = typer.Option(None, "--kernel", help=f"One of {KERNELS.listed()}; the YAML's if not given.", show_default=False)
DEVICE = typer.Option("cpu", "--device", help="cpu, cuda, cuda:1, ...")
ENDPOINT = typer.Option(
    None, "--endpoint", help="OpenAI-compatible URL that reads what no rule covers.", show_default=False
)
ENDPOINT_MODEL = typer.Option(
    None, "--endpoint-model", help="Its model; the key is read from OPENAI_API_KEY.", show_default=False
)


def find_settings(
    model: str | None, hparams: str | None, kernel: str | None, device: str
) -> PersonalizationHyperParams:
    """Hyper-parameters; ``--model`` wins over the YAML's own model.

    Raises:
        ConfigError: none are known for the model, or they are faulty.
        RegistryError: there is no such kernel.
    """
    from ..errors import ConfigError
    from ..hparams import PersonalizationHyperParams, shipped_yaml

    name = hparams or model or DEFAULT_MODEL
    if hparams is None and name not in shipped_yaml():
        raise ConfigError(
            f"No hyper-parameters are known for {name!r}.",
            needed=f"--hparams with a YAML file, or one of {', '.join(shipped_yaml())}",
        )
    known = PersonalizationHyperParams.from_hparams(name)
    changes: dict[str, Any] = {"device": device}
    if model is not None and model not in shipped_yaml():
        changes["model_name"] = model
    elif model is not None:
        changes["model_name"] = PersonalizationHyperParams.from_hparams(model).model_name
    known = known.replace(**changes)
    if kernel is None:
        return known
    return known.with_kernel(kernel if kernel.startswith("easyedit:") else KERNELS.check(kernel))


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
    from ..statements.parser import Unclear
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
