"""From names on a command line to a running server: model, store, tokens, and uvicorn around them."""

from __future__ import annotations

import signal
import socket
import ssl
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ..errors import ConfigError, ServiceError
from ..hparams import PersonalizationHyperParams
from ..modeling.loading import load_model
from ..store.store import EditStore
from .access import Access, read_tokens
from .app import create_app
from .core import Service
from .settings import Settings, check_exposed

MAX_CONNECTIONS = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service listens, and with which certificate if it speaks TLS itself."""

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None


def read_access(token: str | None, token_file: Path | None, users_file: Path | None) -> Access:
    """The tokens of all sources together; ``token`` and ``token_file`` name one for all users.

    Raises:
        ConfigError: a file cannot be read, or a token is unfit.
    """
    tokens = dict(read_tokens(users_file)) if users_file else {}
    if token_file:
        try:
            tokens[token_file.read_text(encoding="utf-8").strip()] = "*"
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"The token's file {str(token_file)!r} cannot be read.", got=type(error).__name__, needed="one line"
            ) from None
    if token:
        tokens[token] = "*"
    return Access(tokens if tokens or users_file else None)


def check_certificate(place: Place) -> None:
    """Raise where certificate and key cannot be used.

    Raises:
        ConfigError: one is missing, cannot be read, or they do not belong together.
    """
    if place.certificate is None and place.key is None:
        return
    try:
        if place.certificate is None:
            raise FileNotFoundError("a key without --certificate")
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(place.certificate, place.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "The certificate cannot be used.",
            got=f"{place.certificate}, {place.key}: {error}",
            needed="--certificate and its --key, both in PEM",
        ) from None


def open_service(hparams: PersonalizationHyperParams, store: str, settings: Settings) -> Service:
    """Load the model of a recipe, and open the store for it.

    Raises:
        ModelError, StoreError: see ``load_model`` and ``EditStore.open``.
    """
    loaded, tokenizer = load_model(hparams)
    return Service(loaded, tokenizer, EditStore.open(store, loaded, tokenizer), hparams, settings)


def bind(place: Place) -> socket.socket:
    """The address, taken but not yet answering: done before the model is loaded, which may take minutes.

    Raises:
        ServiceError: it is taken by another program, or not one of this machine's.
    """
    try:
        (family, kind, proto, _, address), *_ = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with closing(socket.socket(family, kind, proto)) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            return bound.dup()
    except OSError as error:
        raise ServiceError(
            f"The service cannot listen on {place.host}, port {place.port}.",
            got=error.strerror,
            cause="another program listens there, or the address is not this machine's",
            remedy="another --port; 0 takes a free one",
        ) from None


def run(service: Service, access: Access, place: Place, bound: socket.socket) -> None:
    """Serve until the process is told to stop; running answers are finished first, and the store is closed.

    Raises:
        ConfigError: the address is public, and there are no tokens.
    """
    import uvicorn

    check_exposed(place.host, not access.is_open)
    config = uvicorn.Config(
        create_app(service, access),
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
        log_config=None,
        access_log=False,  # addresses hold users' ids
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(service.settings.drain_seconds),
        limit_concurrency=MAX_CONNECTIONS,
    )
    # The server raises its signal again when all is done; that must not keep us from leaving in good order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = uvicorn.Server(config)
    leave = server.handle_exit

    def leaving(number: int, frame: FrameType | None) -> None:
        service.stop_learning()  # now: who waits for a job would hold up the end otherwise
        leave(number, frame)

    server.handle_exit = leaving  # type: ignore[method-assign, assignment]
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        pass
    finally:
        service.close()
        service.store.close()
