"""``easyedit-personal serve``: users' models behind the OpenAI chat-completions protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .session import DEVICE, HPARAMS, KERNEL, MODEL, STORE, find_settings

if TYPE_CHECKING:
    from ..hparams import PersonalizationHyperParams
    from ..service.settings import Settings

ANSWERS, LIMITS, ACCESS, WATCHING = "Answers", "Limits", "Who may", "Watching"


def serve(
    store: str = STORE,
    model: str = MODEL,
    hparams: str = HPARAMS,
    kernel: str = KERNEL,
    device: str = DEVICE,
    host: str = typer.Option("127.0.0.1", "--host", help="Any other than loopback needs a token."),
    port: int = typer.Option(8000, "--port", min=0, max=65535),
    token: str | None = typer.Option(
        None,
        "--token",
        envvar="EASYEDIT_PERSONAL_TOKEN",
        help="One token for all users; others on this machine can see it here, so prefer a file.",
        rich_help_panel=ACCESS,
    ),
    token_file: Path | None = typer.Option(
        None, "--token-file", help="A file with one token for all users.", rich_help_panel=ACCESS
    ),
    users_file: Path | None = typer.Option(
        None, "--users-file", help="YAML: tokens, each with its users' ids or *.", rich_help_panel=ACCESS
    ),
    certificate: Path | None = typer.Option(None, "--certificate", help="For TLS, in PEM.", rich_help_panel=ACCESS),
    key: Path | None = typer.Option(None, "--key", help="The certificate's key.", rich_help_panel=ACCESS),
    name: str = typer.Option(
        "", "--name", help="What clients call the model; its own name if not given.", rich_help_panel=ANSWERS
    ),
    max_new_tokens: int = typer.Option(
        256, "--max-new-tokens", min=1, help="The longest answer.", rich_help_panel=ANSWERS
    ),
    max_rows: int = typer.Option(32, "--max-rows", min=1, help="Answers written together.", rich_help_panel=ANSWERS),
    max_waiting: int = typer.Option(128, "--max-waiting", min=1, help="Answers that wait.", rich_help_panel=LIMITS),
    rate: int = typer.Option(600, "--rate", min=1, help="Requests per minute and token.", rich_help_panel=LIMITS),
    edit_rate: int = typer.Option(
        60, "--edit-rate", min=1, help="Changes of users' models per minute and token.", rich_help_panel=LIMITS
    ),
    learners: int = typer.Option(
        1, "--learners", min=0, help="That learn in this process; 0 leaves it to `easyedit-personal learn`."
    ),
    max_jobs: int = typer.Option(
        256, "--max-jobs", min=1, help="Jobs that wait for being learned.", rich_help_panel=LIMITS
    ),
    max_user_jobs: int = typer.Option(
        16, "--max-user-jobs", min=1, help="Of them, one user's.", rich_help_panel=LIMITS
    ),
    max_body: int = typer.Option(256 * 1024, "--max-body", min=1, help="Bytes of a request.", rich_help_panel=LIMITS),
    page: bool = typer.Option(True, " /--no-page", help="Do not show a page to try it on at /."),
    request_log: str | None = typer.Option(
        None,
        "--request-log",
        help="A file for a line of JSON per request; - is standard output.",
        rich_help_panel=WATCHING,
    ),
    log_users: bool = typer.Option(
        False, "--log-users", help="Users' ids in the request log, too.", rich_help_panel=WATCHING
    ),
) -> None:
    """Serve users' models to OpenAI's clients; `model: "base@alice"` or the header X-User says whose."""
    from ..service import require
    from ..service.settings import Settings

    require()
    found = find_settings(model, hparams, kernel, device)
    settings = Settings(
        name=name or _called(str(found.model_name)),
        max_new_tokens=max_new_tokens,
        max_rows=max_rows,
        max_waiting=max_waiting,
        rate=rate,
        edit_rate=edit_rate,
        max_body=max_body,
        learners=learners,
        max_jobs=max_jobs,
        max_user_jobs=max_user_jobs,
    )
    place, tokens = (host, port, certificate, key), (token, token_file, users_file)
    _serve(store, found, settings, place, tokens, page, (request_log, log_users))


def _called(model: str) -> str:
    """What clients call a model that was given no other name: its folder or file, without where that is."""
    from ..settings.facts import is_gguf

    path = Path(os.path.abspath(Path(model).expanduser()))  # links keep their names
    return path.stem if is_gguf(model) else path.name


def _serve(
    store: str,
    hparams: PersonalizationHyperParams,
    settings: Settings,
    place: tuple[str, int, Path | None, Path | None],
    tokens: tuple[str | None, Path | None, Path | None],
    page: bool,
    logged: tuple[str | None, bool],
) -> None:
    """What can be refused is refused before the model is loaded."""
    import logging

    from ..service.request_log import RequestLog
    from ..service.run import Place, bind, check_certificate, open_service, read_access, reload_on_hangup, run
    from ..service.settings import check_exposed
    from ..store.database import check_store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    access = read_access(*tokens)
    check_exposed(place[0], not access.is_open)
    check_certificate(Place(*place))
    check_store(store)
    request_log = RequestLog(logged[0], users=logged[1]) if logged[0] else None
    reload_on_hangup(access, lambda: read_access(*tokens))
    with bind(Place(*place)) as bound:
        service = open_service(hparams, store, settings)
        host, port = f"[{place[0]}]" if ":" in place[0] else place[0], bound.getsockname()[1]
        print(f"Model {settings.name!r} on http{'s' if place[2] else ''}://{host}:{port}/v1", flush=True)
        print("Everybody on this machine is let in." if access.is_open else "A token is needed.", flush=True)
        if page:
            print(f"A page to try it on: http{'s' if place[2] else ''}://{host}:{port}/", flush=True)
        run(service, access, Place(*place), bound, page=page, request_log=request_log)
