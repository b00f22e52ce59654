"""``/v1/chat/completions`` and ``/v1/models``: OpenAI's protocol, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from ..progress import log
from .api_errors import ApiError
from .batcher import End, Job
from .chat_request import ChatCompletionRequest, read_chat_request
from .core import Service, check_refusable
from .limits import read_body
from .middleware import GONE, caller_of

BASE = "base"  # works as a name of every service's model
HEADER = "x-user"


class Answer:
    """An answer on its way from the model's thread to the event loop."""

    def __init__(self, service: Service) -> None:
        self._service, self._loop = service, asyncio.get_running_loop()
        self._parts: asyncio.Queue[tuple[str, End | None]] = asyncio.Queue()
        self._job: Job | None = None
        self.prompt_tokens = 0
        self.end: End | None = None

    async def begin(self, user: str | None, wanted: ChatCompletionRequest) -> None:
        """Read the conversation and have the answer written.

        Raises:
            ApiError, PersonalizationError: see ``Service.prepare`` and ``start``.
        """
        stream, self.prompt_tokens = await run_in_threadpool(
            self._service.prepare, user, wanted.conversation, wanted.limit
        )
        stream.draw = wanted.sampler
        self._job = self._service.start(stream, wanted.stops, self._notify)

    async def pieces(self) -> AsyncIterator[str]:
        """The answer's text; ``end`` is there afterwards. Leaving early frees the answer's place.

        Raises:
            ApiError: 500, the model failed; the log says how.
        """
        try:
            while self.end is None:
                text, self.end = await self._parts.get()
                if text:
                    yield text
        finally:
            self._leave()
        if self.end.error is not None:
            name = uuid.uuid4().hex[:16]
            log.error("answer %s failed", name, exc_info=self.end.error)
            raise ApiError(
                500, f"The answer could not be finished; it is in the log under {name}.", code="internal_error"
            )

    @property
    def usage(self) -> dict[str, int]:
        """Numbers of tokens, the one that ends an answer not counted."""
        written = self.end.tokens if self.end else len(self._job.stream.tokens) if self._job else 0
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def _notify(self, text: str, end: End | None) -> None:
        self._loop.call_soon_threadsafe(self._parts.put_nowait, (text, end))

    def _leave(self) -> None:
        if self.end is None and self._job is not None:
            self._service.batcher.cancel(self._job)
            self._service.metrics.disconnects.inc()
        tokens = self._service.metrics.tokens
        tokens.labels("prompt").inc(self.prompt_tokens)
        tokens.labels("completion").inc(len(self._job.stream.tokens) if self._job else 0)


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()
    settings, started = service.settings, int(time.time())

    @routes.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await read_body(request, settings.max_body, settings.body_seconds)
        wanted = read_chat_request(body, settings)
        user = asked_user(request, wanted.model, settings.name)
        caller_of(request).check(user)
        answer = request.state.answer = Answer(service)
        request.state.user = user
        await answer.begin(user, wanted)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": wanted.model}
        if wanted.stream:
            events = _events(answer, head, wanted.with_usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        return await _whole(request, answer, head)

    @routes.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        users = sorted(caller_of(request).users or ())
        names = [settings.name, *(f"{settings.name}@{user}" for user in users)]
        return {"object": "list", "data": [_model(name, started) for name in names]}

    @routes.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        caller_of(request).check(user_in(name, settings.name))
        return _model(name, started)

    return routes


def asked_user(request: Request, model: str, name: str) -> str | None:
    """Whose model is asked: ``model: "base@alice"``, or the header ``X-User: alice`` (in UTF-8).

    Raises:
        ApiError: 404 for another model, 400 for two different users or an id that none can have.
    """
    named = user_in(model, name)
    given = [value for key, value in request.scope["headers"] if key == HEADER.encode()]
    if len(given) > 1:
        raise ApiError(400, "X-User was sent more than once.", code="invalid_user", param="X-User")
    if not given:
        return named
    try:
        user = check_refusable(given[0].decode())
    except UnicodeDecodeError:
        raise ApiError(400, "X-User must be UTF-8.", code="invalid_user", param="X-User") from None
    if named is not None and named != user:
        raise ApiError(400, "`model` and X-User name different users.", code="ambiguous_user", param="model")
    return user


def user_in(model: str, name: str) -> str | None:
    """The user in a model's name; None for the base model.

    Raises:
        ApiError: 404 for another model, 400 for an id that none can have.
    """
    for base in (name, BASE):
        if model == base:
            return None
        if model.startswith(f"{base}@"):
            return check_refusable(model[len(base) + 1 :])
    what = f"There is no model {model[:64]!r} here; there is {name!r}, and {name + '@USER'!r}."
    raise ApiError(404, what, code="model_not_found", param="model")


async def _whole(request: Request, answer: Answer, head: dict[str, Any]) -> Response:
    """The answer at once; given up when the client leaves."""
    reading = asyncio.ensure_future(_read(answer))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return Response(status_code=GONE)
        message = {"role": "assistant", "content": reading.result(), "api_error": None}
    finally:
        leaving.cancel()
        if not reading.done():
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    reason = answer.end.reason if answer.end else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": answer.usage})


async def _read(answer: Answer) -> str:
    return "".join([piece async for piece in answer.pieces()])


async def _left(request: Request) -> None:
    """Returns when the client is gone; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(answer: Answer, head: dict[str, Any], with_usage: bool) -> AsyncIterator[str]:
    """The answer as server-sent events, as OpenAI sends them."""
    head = {**head, "object": "chat.completion.chunk"}

    def event(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _data({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    yield event({"role": "assistant", "content": ""})
    pieces = answer.pieces()
    try:
        async for text in pieces:
            yield event({"content": text})
    except ApiError as api_error:
        yield _data(api_error.body)
        return
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]
    yield event({}, answer.end.reason if answer.end else "stop")
    if with_usage:
        yield _data({**head, "choices": [], "usage": answer.usage})
    yield "data: [DONE]\n\n"


def _data(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "easyedit-personal"}
