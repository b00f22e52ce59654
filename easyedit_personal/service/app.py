"""The application: routes, errors in one shape, and a door around them.

FastAPI's pages of documentation are off: they load scripts from elsewhere, and say nothing that README does not.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from .. import __version__
from ..errors import PersonalizationError
from . import chat, jobs, preferences
from .access import Access
from .api_errors import ApiError, as_api_error
from .core import Service
from .middleware import Middleware, caller_of, error_response, failed

METRICS = "text/plain; version=0.0.4; charset=utf-8"


def create_app(service: Service, access: Access | None = None, clock: Callable[[], float] = time.monotonic) -> ASGIApp:
    """The service as an ASGI application; closing it closes the service.

    Args:
        service: answers and learns.
        access: the tokens; None lets in whoever reaches it, for loopback only.
        clock: for the rates.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(chat.router(service))
    app.include_router(preferences.router(service))
    app.include_router(jobs.router(service))
    _add_watching(app, service)
    _add_errors(app)
    return Middleware(app, access or Access(), service.settings, service.metrics, clock)


def _add_watching(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def health() -> Response:
        fault = await run_in_threadpool(service.check)
        content = {"status": "ok" if fault is None else f"{fault} is out of order", "version": __version__}
        return JSONResponse(content, 200 if fault is None else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        caller_of(request).check_operator()
        return Response(service.metrics.text(), media_type=METRICS)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error)

    @app.exception_handler(PersonalizationError)
    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, PersonalizationError)
        if (known := as_api_error(error)) is None:
            raise error  # to the log
        return error_response(known)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, _: Exception) -> Response:
        return failed(request.state.name)  # the framework raises it again after this, and the door logs it

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(ApiError(error.status_code, f"{error.detail}.", code="not_found", headers=error.headers))
