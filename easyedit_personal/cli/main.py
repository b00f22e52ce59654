"""``easyedit-personal``: the commands, and the one place where our errors become plain messages.

No command's module imports torch at its top: ``--help`` must not wait for it.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer

from .. import __version__
from ..errors import IgnoredSettingWarning, PersonalizationError
from .chat import chat
from .demo import demo
from .doctor import doctor
from .edit import edit
from .evaluate import evaluate
from .learn import learn
from .models import app as models_app
from .personalize import personalize
from .report import report
from .serve import serve
from .store import app as store_app
from .understand import understand

app = typer.Typer(
    name="easyedit-personal",
    help="Give every user of a language model their own copy of it, as a file of a few kilobytes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (demo, understand, edit, chat, evaluate, report, personalize, serve, learn, doctor):
    app.command()(command)
app.add_typer(models_app)
app.add_typer(store_app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"easyedit-personal {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


_python_shows = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Ours in a line without its place in the code, which says nothing to users."""
    if issubclass(category, IgnoredSettingWarning):
        print(f"Warning: {message}", file=sys.stderr)
    else:
        _python_shows(message, category, *place, **more)


def main() -> None:
    """Run the command line; our errors are printed without a traceback and exit with 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except PersonalizationError as error:
        from rich.console import Console

        Console(stderr=True).print("[bold red]Error:[/] ", end="")
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
