"""A stub of vLLM: as much of it as decides which adapter answers. vLLM has no build for CPUs in reach.

It restates, in our words, what vLLM documents and its sources say (vllm/lora/resolver.py, vllm/lora/request.py,
vllm/entrypoints/openai/models/serving.py, read on 2026-11-29): resolvers are registered by name and asked with
``(base_model_name, lora_name)`` for names that the server does not know; what one answers is kept under the asked
name for good; prefixes are cached by the adapter's name. What it cannot show is in docs/serving.md, to be run first.
"""

from __future__ import annotations

import dataclasses
import json
import types
from abc import ABC, abstractmethod


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name, lora_name): ...


@dataclasses.dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self):
        assert self.lora_int_id > 0 and self.lora_path


class Registry:
    def __init__(self):
        self.resolvers = {}

    def register_resolver(self, resolver_name, resolver):
        assert isinstance(resolver, LoRAResolver)
        self.resolvers[resolver_name] = resolver


class Server:
    """As much of vLLM as decides which adapter answers; an ASGI application that says which it was."""

    def __init__(self, registry, base_names=("my-org/my-model", "base"), key=None):
        self.resolvers, self.loaded, self.base_names, self.key = list(registry.resolvers.values()), {}, base_names, key
        self.asked = []

    async def __call__(self, scope, receive, send):
        headers = dict(scope["headers"])
        if self.key and headers.get(b"authorization") != f"Bearer {self.key}".encode():
            return await self.answer(send, 401, "Unauthorized")
        message = await receive()
        assert not message["more_body"] and len(message["body"]) == int(headers[b"content-length"])
        self.asked.append(message["body"])
        try:
            name = json.loads(message["body"])["model"]
        except (ValueError, TypeError, KeyError):
            name = None
        if not isinstance(name, str):
            return await self.answer(send, 400, "no model")
        if name in self.base_names:
            return await self.answer(send, 200, name)
        found = await self.resolve(name)
        await self.answer(send, 404 if found is None else 200, found.lora_path if found else f"no model {name}")

    async def resolve(self, name):
        for resolver in [] if name in self.loaded else self.resolvers:
            found = await resolver.resolve_lora(self.base_names[0], name)
            if found is not None:
                self.loaded[name] = dataclasses.replace(found, lora_int_id=len(self.loaded) + 1)
                break
        return self.loaded.get(name)

    async def answer(self, send, status, text):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})


def modules(registry):
    """vLLM's modules by name, as the plugin imports them."""
    contents = {
        "vllm": {},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.lora.resolver": {"LoRAResolver": LoRAResolver, "LoRAResolverRegistry": registry},
    }
    made = {name: types.ModuleType(name) for name in contents}
    for name, content in contents.items():
        vars(made[name]).update(content)
    return made
