"""Preferences of one user or several from a file: UPQA's and PrefEval's JSON lists, or the lines of ``users_file``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..data.items import read_items
from ..data.jsonfile import read_json_list
from ..errors import DataError, listing
from ..store.ids import check_user
from ..types import Preference
from .users_file import Failure, read_users


def read_told(path: str | Path, user: str | None = None) -> dict[str, list[Preference]]:
    """Preferences by user from a file: UPQA's or PrefEval's JSON list, or a user per line as ``personalize`` takes it.

    Args:
        path: the file; "bundled" is the set that ships with the package.
        user: whose all of them are; None means the user whom each record names.

    Raises:
        DataError: the file is faulty (all faults are named), or a record names nobody and ``user`` is None.
    """
    if user is not None:
        check_user(user)
    pairs = _people(path) if _holds_people(path) else _items(path, named=user is None)
    by_user: dict[str, list[Preference]] = {}
    for name, preference in pairs:
        owner = check_user(user or name)
        by_user.setdefault(owner, []).append(replace(preference, user=owner))
    return by_user


def _holds_people(path: str | Path) -> bool:
    """Lines, or a table; a file that cannot be read is left to the other reader, which says why."""
    if Path(path).suffix in (".jsonl", ".ndjson", ".parquet", ".pq"):
        return True
    try:
        with Path(path).open("rb") as file:
            return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False


def _people(path: str | Path) -> list[tuple[str, Preference]]:
    found = list(read_users(path))
    faults = [str(one.error) for one in found if isinstance(one, Failure)]
    if faults:
        raise DataError(f"{path}: {len(faults)} of {len(found)} lines cannot be used.\n{listing(faults)}")
    return [(one.user, said) for one in found if not isinstance(one, Failure) for said in one.preferences]


def _items(path: str | Path, named: bool) -> list[tuple[str, Preference]]:
    items = read_items(path)
    if named and path != "bundled":
        nameless = [number for number, record in enumerate(read_json_list(path)) if "id" not in record]
        if nameless:
            raise DataError(
                f"{path} does not say whose preferences these are.",
                got=f"no id in {len(nameless)} of {len(items)} records, the first of them record {nameless[0]}",
                needed="a user for all of them, or an id in every record",
                remedy="give --user",
            )
    return [(item.id, item.preference()) for item in items]
