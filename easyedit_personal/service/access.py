"""Who is asking, and whose model they may use and change.

A token is known here by its digest only; who presents one learns nothing from how long the comparison takes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, listing
from ..files import parse_yaml
from ..progress import log
from .api_errors import ApiError

EVERYBODY = "*"
MIN_TOKEN = 16  # characters; shorter ones can be guessed
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds a token.

    Attributes:
        name: for limits; says nothing about the token.
        users: whose models they may use; None means everybody's.
    """

    name: str
    users: frozenset[str] | None = None

    def check(self, user: str | None) -> None:
        """Raise unless they may act for this user; the base model (None) is everybody's.

        Raises:
            ApiError: 403.
        """
        if user is not None and self.users is not None and user not in self.users:
            raise ApiError(403, "This token may not act for that user.", code="wrong_user")

    def check_operator(self) -> None:
        """Raise unless they may act for everybody.

        Raises:
            ApiError: 403.
        """
        if self.users is not None:
            raise ApiError(403, "This needs a token for all users.", code="not_operator")


class Access:
    """The tokens of a service.

    Args:
        tokens: token, or "sha256:" and its digest in hexadecimal -> users' ids, or "*"; None lets everybody in, which
            is for services that only their own machine can reach.

    Raises:
        ConfigError: a token is too short, or its users are not a list; all faults at once, never showing a token.
    """

    def __init__(self, tokens: Mapping[str, Iterable[str] | str] | None = None) -> None:
        faults = [fault for number, item in enumerate((tokens or {}).items(), 1) if (fault := _fault(number, *item))]
        if tokens is not None and not tokens:
            faults = ["there are no tokens, so that nobody could come in"]
        if faults:
            raise ConfigError(
                f"The tokens cannot be used:\n{listing(faults)}", remedy="make tokens with `openssl rand -hex 32`"
            )
        self._callers = (
            [(_digest(token), Caller(_digest(token)[:12], _users(to))) for token, to in tokens.items()]
            if (tokens is not None)
            else None
        )

    @classmethod
    def from_file(cls, path: Path) -> Access:
        """Tokens and their users from YAML: ``token: [alice, bob]`` or ``token: "*"``.

        Raises:
            ConfigError: the file cannot be read, or is something else.
        """
        return cls(read_tokens(path))

    def replace(self, new: Access) -> None:
        """Take over another's tokens; they count from the next request on.

        Raises:
            ConfigError: there are none, which would let in everybody who was kept out so far.
        """
        if new.is_open and not self.is_open:
            raise ConfigError("A service that asks for tokens cannot be left without any.", remedy="stop it instead")
        self._callers = new._callers

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in."""
        return self._callers is None

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this ``Authorization`` header.

        Raises:
            ApiError: 401.
        """
        if self._callers is None:
            return Caller("anybody")
        scheme, _, token = (authorization or "").partition(" ")
        given, found = _hash(token.strip()), None
        for digest, caller in self._callers:  # all of them, whichever it is
            if hmac.compare_digest(digest, given):
                found = caller
        if scheme.casefold() != "bearer" or found is None:
            what = "A wrong token was sent." if authorization else "No token was sent."
            raise ApiError(
                401,
                f"{what} Send `Authorization: Bearer TOKEN`.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found


def read_tokens(path: Path) -> dict[str, Any]:
    """The YAML mapping of a users' file; its values are checked by ``Access``.

    Raises:
        ConfigError: it cannot be read, or is no mapping.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
        open_to_others = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        # YAML's message would quote the line, and the line is a token.
        raise ConfigError(
            f"The users' file {str(path)!r} cannot be read.",
            got=type(error).__name__,
            needed='YAML: a token and its users per line, `token: [alice, bob]` or `token: "*"`',
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"The users' file {str(path)!r} is no mapping.", needed="`token: [alice, bob]` per line")
    if open_to_others:
        log.warning("the users' file %s can be read by others on this machine: chmod 600", path)
    return content


def _fault(number: int, token: Any, to: Any) -> str | None:
    """What is wrong with a line, without the token."""
    if not isinstance(token, str):
        return f"token {number}: not text; put it in quotes"
    if not token.isascii() or not token.isprintable() or " " in token:
        return f"token {number}: only printable ASCII without blanks can be sent in a header"
    if len(token) < MIN_TOKEN or (token.startswith("sha256:") and not _DIGEST.fullmatch(token)):
        return f"token {number}: needs {MIN_TOKEN} characters or more, or sha256: and 64 hexadecimal digits"
    if to == EVERYBODY:
        return None
    if not isinstance(to, (list, tuple, set, frozenset)) or not to:
        return f'token {number}: needs a list of users\' ids, or "*"'
    if odd := [user for user in to if not isinstance(user, str) or not user]:
        return f"token {number}: {odd[0]!r} is no user's id; put it in quotes"
    return f'token {number}: "*" stands alone, not in a list' if EVERYBODY in to else None


def _users(to: Iterable[str] | str) -> frozenset[str] | None:
    return None if to == EVERYBODY else frozenset(to)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _digest(token: str) -> str:
    digest = _DIGEST.fullmatch(token)
    return digest[1] if digest else _hash(token)
