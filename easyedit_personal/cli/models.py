"""``easyedit-personal models``: which models are known by name, which of them are at hand, and how to get one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from .session import HPARAMS, find_settings

if TYPE_CHECKING:
    from ..modeling.catalog import KnownModel

app = typer.Typer(name="models", help="List the models that are known by name, and get them.")

NAME = typer.Argument(help="As `models` lists it.")
MODEL_ARGUMENT = typer.Argument(help="A name that `models` lists, a folder, a GGUF file, or a hub id.")


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, as_json: bool = typer.Option(False, "--json", help="JSON lines, for programs.")
) -> None:
    """List the models that are known by name; any folder, GGUF file or hub id can be given as --model, too."""
    if context.invoked_subcommand is not None:
        return
    from ..modeling.catalog import MODELS

    records = [_record(model) for model in MODELS.values()]
    if as_json:
        for record in records:
            print(json.dumps(record))
    else:
        _print_table(records)


@app.command()
def get(
    name: str = NAME,
    accept_licence: bool = typer.Option(
        False, "--accept-licence", help="You have read and accept the model's terms of use; remembered."
    ),
) -> None:
    """Download a model and make it ready, unless it is at hand; needs no network afterwards."""
    from ..modeling.catalog import Origin
    from ..modeling.prepare import find_model

    folder = find_model(name, accept_licence=accept_licence)
    origin = Origin.read(folder)
    print(f"{name} is in {folder}" + (f", from the {origin.source}; licence: {origin.licence}." if origin else "."))


@app.command()
def prepare(
    name: str = MODEL_ARGUMENT,
    kinds: list[str] = typer.Argument(None, help='Kinds of preference, such as hobby or "favorite drink".'),
    hparams: str = HPARAMS,
) -> None:
    """Learn ahead what all edits of a model share, minutes once, and what those of some kinds do, some two each."""
    from ..editing.ahead import learn_ahead, shared_kinds
    from ..modeling.loading import load_model

    settings = find_settings(name, hparams)
    shared_kinds(settings, kinds or ())  # faults are told before a model is loaded
    done = learn_ahead(*load_model(settings), settings, kinds or ())
    of = f", {', '.join(done.kinds)} included" if done.kinds else ""
    print(f"{name} is ready for edits{of}: {done.nbytes / 1e6:.1f} MB in")
    for folder in done.folders:
        print(f"  {folder}")


@app.command()
def path(name: str = NAME) -> None:
    """Print the folder of a model that is at hand."""
    from ..errors import ModelError
    from ..modeling.catalog import known_model
    from ..modeling.prepare import at_hand

    folder = at_hand(known_model(name))
    if folder is None:
        raise ModelError(f"The model {name!r} is not at hand.", remedy=f"easyedit-personal models get {name}")
    print(folder)


@app.command()
def settings(name: str = MODEL_ARGUMENT) -> None:
    """Write a model's settings as YAML with comments: the shipped ones, or those derived from a measured model."""
    from ..settings.resolve import settings_text

    print(settings_text(name), end="")


def _record(model: KnownModel) -> dict[str, Any]:
    from ..hparams import MadeFor, PersonalizationHyperParams, shipped_yaml
    from ..modeling.catalog import Origin
    from ..modeling.prepare import at_hand

    shipped = model.name in shipped_yaml()
    made = PersonalizationHyperParams.from_hparams(model.name).made_for if shipped else MadeFor(status="derived")
    folder = at_hand(model)
    origin = Origin.read(folder) if folder else None
    return {
        "name": model.name,
        "parameters": model.parameters,
        "bytes": model.nbytes,
        "licence": model.licence,
        "sources": [str(source) for source in model.sources],
        "folder": str(folder) if folder else None,
        "source": origin.source if origin else None,
        "family": made.family,
        "layers": made.n_layers,
        "settings": made.status,
        "settings_from": made.source,
    }


def _print_table(records: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "size", "on disk", "licence", "source", "at hand", "settings"):
        table.add_column(column, justify="right" if column in ("size", "on disk") else "left", no_wrap=True)
    for record in records:
        sources = [record["source"]] if record["source"] else record["sources"]
        table.add_row(
            record["name"],
            _scaled(record["parameters"], ((1e9, "B"), (1e6, "M"))),
            _scaled(record["bytes"], ((1e9, " GB"), (1e6, " MB"))),
            record["licence"],
            ", ".join(dict.fromkeys(source.partition(" ")[0] for source in sources)),
            "yes" if record["folder"] else "-",
            record["settings"],
        )
    Console().print(table)


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    size, unit = next((one for one in units if value >= one[0]), units[-1])
    return f"{value / size:.1f}{unit}" if value < 100 * size else f"{value / size:.0f}{unit}"
