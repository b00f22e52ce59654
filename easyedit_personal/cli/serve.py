"""``easyedit-personal serve``: users' models behind the OpenAI chat-completions protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import serve_options as options
from .session import DEVICE, HPARAMS, KERNEL, MODEL, STORE, find_settings

if TYPE_CHECKING:
    from ..hparams import PersonalizationHyperParams
    from ..service.settings import Settings


def serve(
    store: str = STORE,
    model: str = MODEL,
    hparams: str = HPARAMS,
    kernel: str = KERNEL,
    device: str = DEVICE,
    host: str = options.HOST,
    port: int = options.PORT,
    token: str | None = options.TOKEN,
    token_file: Path | None = options.TOKEN_FILE,
    users_file: Path | None = options.USERS_FILE,
    certificate: Path | None = options.CERTIFICATE,
    key: Path | None = options.KEY,
    name: str = options.NAME,
    max_new_tokens: int = options.MAX_NEW_TOKENS,
    max_rows: int = options.MAX_ROWS,
    max_waiting: int = options.MAX_WAITING,
    rate: int = options.RATE,
    edit_rate: int = options.EDIT_RATE,
    learners: int = options.LEARNERS,
    max_jobs: int = options.MAX_JOBS,
    max_user_jobs: int = options.MAX_USER_JOBS,
    max_body: int = options.MAX_BODY,
    page: bool = options.PAGE,
    request_log: str | None = options.REQUEST_LOG,
    log_users: bool = options.LOG_USERS,
) -> None:
    """Serve users' models over OpenAI's protocol; `model: "base@alice"` or the header X-User says whose."""
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
        print("Anyone on this machine may use it." if access.is_open else "A token is needed.", flush=True)
        if page:
            print(f"A page to try it on: http{'s' if place[2] else ''}://{host}:{port}/", flush=True)
        run(service, access, Place(*place), bound, page=page, request_log=request_log)
