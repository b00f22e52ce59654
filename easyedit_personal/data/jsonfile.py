"""Reading JSON lists from strangers: every way in which a file can be wrong becomes one clear DataError.

The standard library accepts more than JSON (NaN, repeated keys, half a surrogate pair) and raises five kinds of
errors for the rest; a reader of data sets should meet one kind, that names the file and the remedy.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from ..errors import DataError

LIST = "a JSON list of objects, such as [{...}, {...}]"


def read_json_list(path: str | Path) -> list[Any]:
    """The list in a JSON file (UTF-8, with or without byte order mark).

    Raises:
        DataError: the file is missing, a folder, empty, no UTF-8, no JSON, holds NaN, infinity or an object with a
            repeated key, or its top level is no list or an empty one.
    """
    text = _read_text(Path(path))
    if not text.strip():
        raise DataError(f"{path} is empty.", needed=LIST, cause="an interrupted download or an empty export")
    try:
        data = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except _Fault as fault:
        raise DataError(f"{path} is not usable as JSON: {fault}", needed=LIST) from None
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise DataError(f"{path} is not JSON: {error}", needed=LIST, cause=_guess(text)) from None
    if not isinstance(data, list):
        raise DataError(
            f"{path} holds no list at its top level.",
            got=data if not isinstance(data, dict) else {"keys": list(data)[:8]},
            needed=LIST,
            remedy="pass the list itself, e.g. the value of its 'data' key" if isinstance(data, dict) else None,
        )
    if not data:
        raise DataError(f"{path} holds an empty list.", needed="at least one record")
    return data


class _Fault(ValueError):
    """Something that the standard library would have let pass."""


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}.",
            needed="JSON in UTF-8",
            cause="the file was saved in another encoding (UTF-16 and Latin-1 are common), or it is no text",
            remedy=f"iconv -f LATIN1 -t UTF-8 {path.name}",
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", needed="the path of a JSON file"
        ) from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    doubled = [key for key, times in Counter(keys).items() if times > 1] if len(set(keys)) < len(keys) else []
    if doubled:
        raise _Fault(f"an object has the key {doubled[0]!r} twice, and only one of the values would count")
    return dict(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise _Fault(f"{name} is no JSON value")


def _guess(text: str) -> str:
    start = text.lstrip()
    if start.startswith("version https://git-lfs"):
        return "this is a git-lfs pointer; fetch the file itself with git lfs pull"
    if start.startswith("<"):
        return "this looks like an HTML or XML page; download the raw file"
    if start.startswith("{") and "\n{" in start:
        return "this looks like JSON Lines; put the lines into one list"
    return "a truncated file, a trailing comma or single quotes"
