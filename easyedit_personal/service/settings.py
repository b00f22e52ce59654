"""What an operator may set, with the limits that keep one client from taking everything."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields

from ..errors import ConfigError, listing

POSITIVE = (
    *("max_new_tokens", "max_body", "max_messages", "max_rows", "max_waiting", "max_edits", "max_jobs"),
    *("max_user_jobs", "rate", "edit_rate"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Names, limits and sizes of a service.

    Attributes:
        name: what clients call the base model; "base" always works too.
        max_new_tokens: the longest answer, and the one that is written where a client names no limit.
        max_body: bytes of a request's body.
        max_messages: turns of a conversation.
        max_rows: answers that are written together.
        max_waiting: answers that wait for a place; whoever comes after is told to come back.
        max_edits: undos and forgets that wait for their turn.
        max_jobs: preferences that wait for being learned, in the whole store; 0 or more learners take them.
        max_user_jobs: likewise, of one user.
        learners: how many learn in this process; 0 leaves it to others.
        window: seconds in which requests are collected when nothing is being written.
        rate: requests per minute and token.
        edit_rate: changes of users' models per minute and token.
        body_seconds: how long a client may take to send its request.
        drain_seconds: how long running answers may take when the service is stopped.
    """

    name: str = "base"
    max_new_tokens: int = 256
    max_body: int = 256 * 1024
    max_messages: int = 256
    max_rows: int = 32
    max_waiting: int = 128
    max_edits: int = 8
    max_jobs: int = 256
    max_user_jobs: int = 16
    learners: int = 1
    window: float = 0.004
    rate: int = 600
    edit_rate: int = 60
    body_seconds: float = 20.0
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        faults = [f"{name} must be positive" for name in POSITIVE if getattr(self, name) < 1]
        if self.learners < 0:
            faults.append("learners must not be negative")
        times = [field.name for field in fields(self) if field.type == "float"]
        faults += [f"{name} must not be negative" for name in times if getattr(self, name) < 0]
        if not self.name or self.name != self.name.strip() or not self.name.isprintable():
            faults.append(f"name must be a printable word, not {self.name!r}")
        if faults:
            raise ConfigError(f"The service cannot run like this:\n{listing(faults)}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.casefold() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name: it may resolve to anything
        return False


def check_exposed(host: str, has_tokens: bool) -> None:
    """Raise where everybody on the network could read and change every user's model.

    Raises:
        ConfigError: the address is not loopback, and there are no tokens.
    """
    if not has_tokens and not is_loopback(host):
        raise ConfigError(
            "The service would be open to the whole network.",
            got=f"--host {host} and no token",
            needed="a token where others than this machine can connect",
            remedy="--token-file FILE (made with `openssl rand -hex 32`) or --users-file FILE; or --host 127.0.0.1",
        )
