"""``/v1/users`` and ``/v1/users/{id}/lora``: who there is, and a user's copy of the model as a file to take away."""

from __future__ import annotations

import io
import zipfile
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from ..store.adapter_cache import adapter_name
from ..store.lora import lora_files, snapshot
from .api_errors import ApiError
from .core import Service
from .middleware import caller_of
from .preferences import user_of

MAX_USERS = 1000  # of one list


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/v1/users")
    async def users(request: Request) -> dict[str, Any]:
        limit = _limit(request.query_params.get("limit", "100"))
        mine = caller_of(request).users
        found = sorted(mine) if mine is not None else await run_in_threadpool(_some, service, limit + 1)
        data = [{"object": "user", "id": user} for user in found[:limit]]
        return {"object": "list", "data": data, "has_more": len(found) > limit}

    @routes.get("/v1/users/{user:path}/lora")
    async def lora(request: Request) -> Response:
        user = user_of(request, "lora")
        name, content = await run_in_threadpool(_zipped, service, user)
        # Quoted as in adapters' names: nothing in it can end the header's value.
        headers = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
        return Response(content, media_type="application/zip", headers=headers)

    return routes


def _limit(given: str) -> int:
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 5 else 0
    if not 1 <= number <= MAX_USERS:
        raise ApiError(400, f"limit must be 1 to {MAX_USERS}.", code="invalid_value", param="limit")
    return number


def _some(service: Service, limit: int) -> list[str]:
    return list(islice(service.store.users(), limit))


def _zipped(service: Service, user: str) -> tuple[str, bytes]:
    """The adapter's name and its zip file, made in memory: nothing of a user's lies around in clear.

    Raises:
        ApiError: 404, the user has no live edits.
    """
    revision, deltas = snapshot(service.store, user)
    if not deltas:
        raise ApiError(404, "This user has no live edits to download.", code="not_found", param="user")
    name, packed = adapter_name(user, revision), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        for file, content in lora_files(deltas, base_model=service.settings.name, name=name).items():
            made.writestr(zipfile.ZipInfo(f"{name}/{file}"), content)
    return name, packed.getvalue()
