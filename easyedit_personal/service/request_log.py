"""The request log: a line of JSON for every request, with what was asked for and never with what was said.

Addresses are logged as templates, since a path holds a user's id; ids are added only where an operator asks for them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any

from ..errors import ConfigError

STANDARD_OUTPUT = "-"


class RequestLog:
    """Writes a line per request.

    Args:
        target: a file, which is opened anew once somebody has moved it away (as logrotate does), or "-".
        users: add the id of the user whose model was asked or changed.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, target: str, *, users: bool = False) -> None:
        self._users, self._logger = users, logging.Logger("easyedit_personal.requests")
        try:
            standard = target == STANDARD_OUTPUT
            handler = logging.StreamHandler(sys.stdout) if standard else WatchedFileHandler(target, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"The request log {target!r} cannot be written.",
                got=error.strerror,
                needed="a file in an existing folder that may be written, or - for standard output",
            ) from None
        self._logger.addHandler(handler)

    def write(self, name: str, method: str, path: str, status: int, seconds: float, state: Mapping[str, Any]) -> None:
        """One request that was answered, or given up.

        Args:
            name: the request's own, as in the header ``X-Request-Id``.
            method, path: HTTP's; the path as a template.
            status: HTTP's, 499 where the client did not wait.
            seconds: until the last byte was sent.
            state: the request's; ``answer`` and ``user`` are looked at.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "id": name, "method": method, "path": path, "status": status}
        line["ms"] = round(seconds * 1000, 1)
        if answer := state.get("answer"):
            usage = answer.usage
            line |= {kind: usage[kind] for kind in ("prompt_tokens", "completion_tokens")}
        if self._users and "user" in state:
            line["user"] = state["user"]
        self._logger.info(json.dumps(line))

    def close(self) -> None:
        """Let go of the file."""
        for handler in self._logger.handlers:
            handler.close()
