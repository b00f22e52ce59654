"""The door: nothing reaches a route without a token, a place within the rate, and somebody to catch what goes wrong.

An ASGI application around the other, so that it also holds for addresses that no route serves.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..progress import log
from .access import Access, Caller
from .api_errors import ApiError
from .limits import Rate
from .metrics import Metrics
from .request_log import RequestLog
from .settings import Settings, is_loopback

OPEN = {"/", "/healthz", "/readyz"}  # the page holds nothing of anybody's; what it shows, it asks for with a token
SAFE = {"GET", "HEAD", "OPTIONS"}
GONE = 499  # nginx's number for a client that did not wait
WRONG_TOKENS = 60  # per minute and address


class Middleware:
    """Checks who asks and how often, counts what was answered, and keeps what went wrong to the log.

    Args:
        app: what is guarded.
        access: the tokens.
        settings: the rates.
        metrics: what is counted.
        clock: for the rates.
        request_log: where a line per request goes; None writes none.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        request_log: RequestLog | None = None,
    ) -> None:
        self.app, self.access, self.metrics, self.request_log = app, access, metrics, request_log
        self._rate, self._edit_rate = Rate(settings.rate, clock), Rate(settings.edit_rate, clock)
        self._wrong = Rate(WRONG_TOKENS, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, name, status, whole = time.monotonic(), uuid.uuid4().hex[:16], 0, False

        async def answer(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(b"x-request-id", name.encode()), (b"cache-control", b"no-store")]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body")

        state = scope.setdefault("state", {})
        state["name"] = name
        try:
            state["caller"] = self._admitted(Request(scope))
            await self.app(scope, receive, answer)
        except ApiError as api_error:
            await error_response(api_error)(scope, receive, answer)
        except Exception:
            log.exception("request %s failed", name)
            if not status:
                await failed(name)(scope, receive, answer)
            elif not whole:
                raise  # the answer had begun: the server cuts the connection
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            seconds = time.monotonic() - began
            self.metrics.requests.labels(route, method, str(status or GONE)).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            if self.request_log is not None:
                self.request_log.write(name, method, route, status or GONE, seconds, state)

    def _admitted(self, request: Request) -> Caller | None:
        """Who asks.

        Raises:
            ApiError: 401, 403 or 429.
        """
        if request.url.path in OPEN:
            return None
        if self.access.is_open:
            _check_origin(request)
        try:
            caller = self.access.caller(request.headers.get("authorization"))
        except ApiError:
            self._wrong.take(request.client.host if request.client else "")
            raise
        self._rate.take(caller.name)
        if request.method not in SAFE and request.url.path.startswith("/v1/users/"):
            self._edit_rate.take(caller.name)
        return caller


METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def error_response(api_error: ApiError) -> JSONResponse:
    """The response to a request that is refused."""
    return JSONResponse(api_error.body, api_error.status, api_error.headers)


def failed(name: str) -> JSONResponse:
    """The response when something went wrong here; the log has it under this name."""
    what = f"Something went wrong here; it is in the log under {name}."
    return error_response(ApiError(500, what, code="internal_error"))


def caller_of(request: Request) -> Caller:
    """Whoever was let in."""
    caller: Any = request.state.caller
    return caller


def _check_origin(request: Request) -> None:
    """Without tokens a page in the operator's own browser could reach us, under a name that leads to this machine.

    Raises:
        ApiError: 403.
    """
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin")
    try:
        page = urlsplit(origin).hostname if origin else None
    except ValueError:
        page = ""
    if not is_loopback(host) or (origin and not is_loopback(page or "")):
        raise ApiError(403, "Without a token only this machine itself is answered.", code="not_local")
