"""``/v1/users/{id}/...``: what a user told us, learned, listed, undone and forgotten.

The user's id is the one path segment between the slashes, percent-encoded; it is taken from the address as it was sent,
since a decoded one would no longer say which slashes were the user's.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from ..statements.preferences import MAX_VALUE, Unclear, preference_of
from ..store.adapter_cache import BASE, adapter_name
from ..store.records import came_back
from ..types import Preference
from .api_errors import ApiError
from .chat_request import invalid_json
from .core import Service, check_refusable
from .jobs import submitted, wait_of
from .limits import read_body
from .middleware import caller_of
from .records import edit_record

MAX_TEXT = 1000  # characters of one call
MAX_STATEMENTS = 4
MAX_KEY = 256  # characters of an idempotency key


class _Told(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", str_strip_whitespace=True)
    text: str | None = Field(None, min_length=1, max_length=MAX_TEXT)
    subject: str | None = Field(None, min_length=1, max_length=60)
    question: str | None = Field(None, min_length=1, max_length=300)
    target: str | None = Field(None, min_length=1, max_length=MAX_VALUE)


class _Undo(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    edit: int | None = Field(None, ge=1, lt=2**63)


def router(service: Service) -> APIRouter:
    """The routes."""
    routes, place = APIRouter(), "/v1/users/{user:path}"

    @routes.put(f"{place}/preferences")
    async def put(request: Request) -> Response:
        user = user_of(request, "preferences")
        told = await _body(service, request, _Told)
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= MAX_KEY:
            raise ApiError(400, f"Idempotency-Key must have 1 to {MAX_KEY} characters.", param="Idempotency-Key")
        seconds = wait_of(request)
        wanted = await run_in_threadpool(_understood, service, told, user)
        job = await run_in_threadpool(service.submit, user, wanted, key)
        return await submitted(service, job, seconds)

    @routes.get(f"{place}/preferences")
    async def get(request: Request) -> dict[str, Any]:
        user = user_of(request, "preferences")
        everything = request.query_params.get("all") in ("1", "true")
        history = await run_in_threadpool(service.store.history, user)
        return {"object": "list", "data": [edit_record(edit) for edit in history if everything or edit.live]}

    @routes.get(f"{place}/adapter")
    async def adapter(request: Request) -> dict[str, Any]:
        user = user_of(request, "adapter")
        revision = await run_in_threadpool(service.store.version, user)
        if not revision:
            raise ApiError(404, "There is no such user.", code="not_found", param="user")
        live = any(
            edit.live and edit.where == "weights" for edit in await run_in_threadpool(service.store.history, user)
        )
        return {"object": "adapter", "revision": revision, "model": adapter_name(user, revision) if live else BASE}

    @routes.delete(f"{place}/preferences")
    async def forget(request: Request) -> dict[str, Any]:
        user = user_of(request, "preferences")
        count = await asyncio.wrap_future(service.forget(user))
        return {"object": "user.forgotten", "edits": count}

    @routes.delete(f"{place}/preferences/{{edit}}")
    async def delete(request: Request, edit: str) -> dict[str, Any]:
        user = user_of(request, "preferences", edit)
        number = int(edit) if edit.isascii() and edit.isdigit() and len(edit) < 19 else 0
        return await _undone(service, user, number)

    @routes.post(f"{place}/undo")
    async def undo(request: Request) -> dict[str, Any]:
        user = user_of(request, "undo")
        return await _undone(service, user, (await _body(service, request, _Undo)).edit)

    return routes


def user_of(request: Request, *rest: str) -> str:
    """The user in the address, whom the caller may act for.

    Raises:
        ApiError: 400, 403, or 404 where the address is another one once it is decoded.
    """
    parts = request.scope["raw_path"].split(b"?")[0].split(b"/")
    if len(parts) != 4 + len(rest) or [unquote_to_bytes(part).decode("utf-8", "replace") for part in parts[4:]] != [
        *rest
    ]:
        raise ApiError(404, "Not found; slashes in a user's id are written %2F.", code="not_found")
    try:
        user = check_refusable(unquote_to_bytes(parts[3]).decode())
    except UnicodeDecodeError:
        raise ApiError(400, "The user's id is not UTF-8.", code="invalid_user", param="user") from None
    caller_of(request).check(user)
    request.state.user = user
    return user


async def _body(service: Service, request: Request, kind: type[Any]) -> Any:
    settings = service.settings
    body = await read_body(request, settings.max_body, settings.body_seconds)
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise invalid_json(error) from None


def _understood(service: Service, told: _Told, user: str) -> list[Preference]:
    """The preferences that were told.

    Raises:
        ApiError: 422 with what to ask the user, 400 where fields are missing or too many.
    """
    parts = (told.subject, told.question, told.target)
    if (told.text is None) == (parts == (None, None, None)):
        raise ApiError(400, "Send either `text`, or `subject` and `target` (and `question`).", code="invalid_value")
    for name, value in told.model_dump(exclude_none=True).items():
        if not value.replace("\n", " ").isprintable():
            raise ApiError(400, f"{name} has control characters in it.", code="invalid_value", param=name)
    if told.text is None:
        return [_spelled(told, user)]
    found = service.understand(told.text, user)
    if len(found) > MAX_STATEMENTS:
        raise ApiError(400, f"At most {MAX_STATEMENTS} statements at a time.", code="invalid_value", param="text")
    if unclear := [one for one in found if isinstance(one, Unclear)]:
        raise _not_understood(unclear)
    preferences = [one for one in found if isinstance(one, Preference)]
    if not preferences:
        raise ApiError(400, "The text states nothing.", code="invalid_value", param="text")
    return preferences


def _spelled(told: _Told, user: str) -> Preference:
    if told.subject is None or told.target is None:
        missing = "subject" if told.subject is None else "target"
        raise ApiError(400, f"{missing} is missing.", code="invalid_value", param=missing)
    if told.question is None:
        return preference_of(told.subject, told.target, user=user)
    if told.subject not in told.question:
        raise ApiError(400, "The subject must stand in the question, letter for letter.", param="question")
    return Preference(told.subject, told.question, told.target, user)


def _not_understood(unclear: list[Unclear]) -> ApiError:
    """What to ask, and what a plain yes would mean where we have a guess."""
    asks = [
        {
            "text": one.text,
            "question": one.question,
            "suggestion": None
            if one.suggestion is None
            else {
                "subject": one.suggestion.subject,
                "question": one.suggestion.question,
                "target": one.suggestion.target,
            },
        }
        for one in unclear
    ]
    message = "Not understood; nothing was learned. " + " ".join(one.question for one in unclear)
    return ApiError(422, message, code="not_understood", param="text", details={"ask": asks})


async def _undone(service: Service, user: str, edit: int | None) -> dict[str, Any]:
    """Undo the last edit, or one by its number.

    Raises:
        ApiError: 404 for an edit that the user does not have, 409 for one that was merged.
    """
    if edit is not None:
        history = await run_in_threadpool(service.store.history, user)
        named = next((one for one in history if one.id == edit), None)
        if named is None:
            raise ApiError(404, f"This user has no edit {edit}.", code="not_found", param="edit")
        if named.merged is not None:
            raise ApiError(409, f"The edit was merged with others into {named.merged}.", code="merged", param="edit")
    undone = await asyncio.shield(asyncio.wrap_future(service.unlearn(user, edit)))
    back = came_back(await run_in_threadpool(service.store.history, user), undone)
    found = {"object": "list", "data": [edit_record(one) for one in undone]}
    return {**found, "restored": [edit_record(one) for one in back]} if back else found
