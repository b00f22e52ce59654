"""vLLM, as its makers ship it, serves every user of a store by name: ``base@alice``, or ``alice@17``.

``register`` (entry point ``vllm.general_plugins``) adds a ``LoRAResolver``, which vLLM asks for names it does not know.
It keeps those it knows, so ``Router`` (``vllm serve --middleware``) looks at every request: it turns the user into the
present revision, and keeps what was undone or forgotten from being asked for. docs/serving.md shows both.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import platformdirs

from ..errors import ConfigError
from ..store import EditStore
from ..store.adapter_cache import MAX_ADAPTERS, AdapterCache, NoAdapter, parse_name

STORE, FOLDER, MOST = "EASYEDIT_PERSONAL_STORE", "EASYEDIT_PERSONAL_ADAPTERS", "EASYEDIT_PERSONAL_MAX_ADAPTERS"
NAME = "easyedit-personal"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def register() -> None:
    """Called by vLLM in each of its processes; does nothing unless ``EASYEDIT_PERSONAL_STORE`` names a store."""
    if not os.environ.get(STORE):
        return
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    class Resolver(LoRAResolver):
        """A user's present adapter by its full name; nothing for any other name."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
            """``alice@17`` if that is alice's revision now.

            ``base@alice`` is not answered: vLLM would keep it after alice's next edit.
            """
            meant = parse_name(lora_name)
            if meant is None or meant[1] is None:
                return None
            try:
                found = await asyncio.to_thread(adapters().find, *meant)
            except NoAdapter:
                return None
            if found is None:
                return None
            # Revisions number the changes of the whole store, so that no two adapters share one.
            return LoRARequest(lora_name=lora_name, lora_int_id=found.revision, lora_path=str(found.folder))

    LoRAResolverRegistry.register_resolver(NAME, Resolver())


class Router:
    """ASGI middleware: the model of every request's JSON body, by ``AdapterCache.route``.

    It never answers by itself: what it refuses gets a name that vLLM does not have, behind vLLM's own check of the key.

    Args:
        app: vLLM's application.

    Raises:
        ConfigError, StoreError: the store cannot be opened; vLLM then does not start.
    """

    def __init__(self, app: Any) -> None:
        self._app, self._adapters = app, adapters()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, its body rewritten."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        body = await asyncio.to_thread(self._routed, body)
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        headers = [
            pair for pair in scope["headers"] if pair[0].lower() not in (b"content-length", b"transfer-encoding")
        ]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._app({**scope, "headers": headers}, again, send)

    def _routed(self, body: bytes) -> bytes:
        """Written anew also where the name stays: vLLM must not read another name in it (a key given twice) than we."""
        try:
            request = json.loads(body)
        except RecursionError:
            return b""
        except ValueError:
            return body
        if not isinstance(request, dict) or not isinstance(request.get("model"), str):
            return body
        return json.dumps({**request, "model": self._adapters.route(request["model"])}).encode()


@functools.cache
def adapters() -> AdapterCache:
    """This process's cache, from the environment.

    Raises:
        ConfigError: the environment names no store, or not a number of adapters.
        StoreError: the store cannot be opened.
    """
    url, most = os.environ.get(STORE, ""), os.environ.get(MOST, str(MAX_ADAPTERS))
    if not url or not most.isdecimal() or int(most) < 1:
        raise ConfigError(
            "The store that vLLM is to serve is not known.",
            got=f"{STORE}={url!r}, {MOST}={most!r}",
            needed=f"a store's path or URL in {STORE}; in {MOST}, if it is set, a number of adapters",
        )
    folder = os.environ.get(FOLDER) or Path(platformdirs.user_cache_dir(NAME)) / "adapters"
    return AdapterCache(EditStore.open(url), folder, int(most))


async def _read(receive: Receive) -> bytes | None:
    """A request's body; None if the client has left."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
