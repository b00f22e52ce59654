"""The result folder: which run it belongs to, every answer as JSON lines, and the figures.

A user's line is written in one piece and synced, so that killing the run at any moment loses at most the user in
work; a torn last line is dropped on the next start.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, listing

SCHEMA = 1
SHARDS = "shards"
ROOM = 16 * 2**20  # bytes that must be free before a run starts


class ResultFolder:
    """A folder of one evaluation: ``setup.json``, ``answers/<method>.jsonl`` and ``result.json``.

    Raises:
        DataError: the path is a file, cannot be written, or its disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.answers = self.path / "answers"
        with _told(self.path):
            self.answers.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("")
            probe.unlink(missing_ok=True)  # several workers may look at the same time
        free = shutil.disk_usage(self.path).free
        if free < ROOM:
            raise DataError(
                f"The disk of {self.path} is full.",
                got=f"{free / 2**20:.1f} MiB free",
                needed=f"{ROOM // 2**20} MiB",
                remedy="make room, or write the results elsewhere with --out",
            )

    def claim(self, setup: Mapping[str, Any]) -> None:
        """Write the setup, or hold it against the one that is there.

        Raises:
            DataError: the folder belongs to another setup; every difference is named.
        """
        if self.setup() is None:
            self._write(self.path / "setup.json", setup)
        self.check(setup)

    def check(self, setup: Mapping[str, Any]) -> None:
        """Raise unless what ``setup`` says (it may be a part) agrees with the folder's; a new folder agrees with all.

        Raises:
            DataError: the folder belongs to another setup; every difference is named.
        """
        known = self.setup()
        faults = differences({key: known.get(key) for key in setup}, setup) if known else []
        if faults:
            raise DataError(
                f"{self.path} holds the results of another setup.\n{listing(faults)}",
                remedy="give another --out, or delete that folder",
            )

    def setup(self) -> dict[str, Any] | None:
        """The setup that the folder belongs to, None when it is new."""
        path = self.path / "setup.json"
        return read_json(path) if path.is_file() else None

    def users(self, method: str) -> list[dict[str, Any]]:
        """The finished users of a method, in the order in which they were done; a torn last line is cut off."""
        path = self._lines(method)
        if not path.is_file():
            return []
        raw = path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            with _told(path):
                os.truncate(path, len(whole))
        try:
            return [json.loads(line) for line in whole.decode("utf-8").splitlines()]
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(
                f"{path} is damaged: {error}", cause="it was edited by hand", remedy="delete it: its users are redone"
            ) from None

    def append(self, method: str, users: Sequence[Mapping[str, Any]]) -> None:
        """Add finished users, in one write, on disk before this returns.

        Raises:
            DataError: the disk is full; what was there before is intact.
        """
        text = "".join(map(_line, users))
        with _told(self.path), self._lines(method).open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def clear(self, method: str) -> None:
        """Forget a method's answers."""
        self._lines(method).unlink(missing_ok=True)

    def methods(self) -> list[str]:
        """The methods that have answers here."""
        return sorted(path.name.removesuffix(".jsonl").replace("+", ":") for path in self.answers.glob("*.jsonl"))

    def shard(self) -> ResultFolder:
        """A folder inside this one for a worker of its own; ``gather`` takes its answers in."""
        return ResultFolder(self.path / SHARDS / uuid.uuid4().hex)

    def gather(self, users: Sequence[str]) -> None:
        """Take in the answers of all shards, also those of a run that was killed, in the order of ``users``."""
        shards = [ResultFolder(path) for path in sorted((self.path / SHARDS).glob("*"))]
        for method in sorted({name for shard in shards for name in shard.methods()}):
            lines = {line["user"]: line for folder in (*shards, self) for line in folder.users(method)}
            ordered = [lines[user] for user in users if user in lines]
            self._replace(self._lines(method), "".join(map(_line, ordered)))
        shutil.rmtree(self.path / SHARDS, ignore_errors=True)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Replace ``result.json``, in one step."""
        self._write(self.path / "result.json", result)

    def result(self) -> dict[str, Any]:
        """The figures.

        Raises:
            DataError: there are none.
        """
        return read_json(self.path / "result.json")

    def _lines(self, method: str) -> Path:
        # ":" is not allowed in file names everywhere.
        return self.answers / f"{method.replace(':', '+')}.jsonl"

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        self._replace(path, json.dumps(_finite(values), indent=1, ensure_ascii=False) + "\n")

    def _replace(self, path: Path, text: str) -> None:
        scratch = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        with _told(path):
            scratch.write_text(text, encoding="utf-8")
            os.replace(scratch, path)


def _line(user: Mapping[str, Any]) -> str:
    return json.dumps(user, ensure_ascii=False, allow_nan=True) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DataError: it is missing, damaged or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}.", needed="a folder that `evaluate` has written"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict) or values.get("schema", SCHEMA) != SCHEMA:
        raise DataError(f"{path} has another schema.", got=values if isinstance(values, list) else values.get("schema"))
    return values


def differences(known: Any, wanted: Any, path: str = "") -> list[str]:
    """What differs between two setups, one line per value; versions and hardware may differ."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        keys = [key for key in {**known, **wanted} if key not in ("versions", "hardware", "commit")]
        return [line for key in keys for line in differences(known.get(key), wanted.get(key), f"{path}.{key}")]
    return [] if known == wanted else [f"{path.lstrip('.')}: {known!r} there, {wanted!r} now"]


def _finite(values: Any) -> Any:
    """JSON knows neither NaN nor infinity: they become null."""
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not abs(values) < float("inf") else values


class _told:
    """Turns the operating system's errors into ours: a full disk, a read-only folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise DataError(
                f"{self.path} cannot be written: {error.strerror or error}.",
                cause="the disk is full" if full else None,
                remedy="make room and start the same command again: finished users are kept" if full else None,
            ) from None
