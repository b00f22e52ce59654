"""The page at ``/``: one HTML file with its style and script inside, and nothing from anywhere else.

It holds nobody's data. What it shows, it asks the API for, with a token that it is given and keeps for one tab.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def router() -> APIRouter:
    """The route; the page is read once."""
    routes, html = APIRouter(), files(__package__).joinpath("index.html").read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": policy(html),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    @routes.get("/")
    async def page() -> Response:
        return Response(html, media_type="text/html", headers=headers)

    return routes


def policy(html: str) -> str:
    """A Content-Security-Policy under which exactly this page's own style and script count (W3C, CSP Level 3, 6.6.2.3).

    Requests go to this server only, no other page may frame it, and with no Trusted Types policy allowed there is no
    way to turn a string into HTML.
    """
    digests: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        digests[kind].append(f"'sha256-{digest}'")
    own = [f"{kind}-src {' '.join(found)}" for kind, found in digests.items()]
    rest = ["img-src data:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    types = ["require-trusted-types-for 'script'", "trusted-types 'none'"]
    return "; ".join(["default-src 'none'", *own, *rest, *types])
