"""How often, and how much: buckets of requests per minute, and bodies that end in time and in size."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import Request

from .api_errors import ApiError

MAX_KEYS = 10_000  # buckets kept; strangers' addresses must not fill the memory


class Rate:
    """So many requests per minute for every key, all of them at once if it was quiet before.

    Args:
        per_minute: of one key.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> what is left, and when that was
        self._lock = threading.Lock()

    def take(self, key: str) -> None:
        """Count one request.

        Raises:
            ApiError: 429, with the time after which the next one is let in.
        """
        with self._lock:
            now = self._clock()
            left, then = self._buckets.pop(key, (float(self.per_minute), now))
            left = min(self.per_minute, left + (now - then) * self.per_minute / 60)
            allowed = left >= 1
            self._buckets[key] = (left - 1 if allowed else left, now)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        if not allowed:
            raise ApiError(
                429,
                f"Too many requests: at most {self.per_minute} per minute.",
                code="rate_limit_exceeded",
                retry_after=(1 - left) * 60 / self.per_minute,
            )


async def read_body(request: Request, max_body: int, seconds: float) -> bytes:
    """The request's body.

    Raises:
        ApiError: 413 when it is larger than allowed, 408 when it does not come in time.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and len(announced) < 20 and int(announced) > max_body:
        raise _too_large(max_body)
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > max_body:
                    raise _too_large(max_body)
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, "The request did not arrive in time.", code="timeout", headers=_CLOSE) from None
    return b"".join(parts)


_CLOSE = {"Connection": "close"}


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The request is larger than {limit:,} bytes.", code="request_too_large", headers=_CLOSE)
