"""What a job is: the records that callers see, and its texts as rows of ``job_texts``.

Each text is a row of its own that is only ever written once: SQLite leaves no stale copy of it behind (see
``maintenance.erase``). In an encrypted store each has a key of its own, which the store's key wraps.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select

from ..errors import StoreError
from ..types import Preference
from .encryption import Encryption
from .queries import KEY_ID, next_tick
from .schema import job_texts, jobs

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
OPEN = (QUEUED, RUNNING)
REQUEST, REPORT, ERROR = "request", "report", "error"
TEXT_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Job:
    """Preferences that wait for being learned, or what became of them.

    Attributes:
        id: the store's running number of this job.
        user: whose.
        status: queued, running, done, failed or cancelled.
        created: when it was asked for, in seconds since 1970; ``ended`` likewise, None before.
        preferences: what is to be learned, each as an edit of its own.
        key: the idempotency key that came with them.
        reports: what was learned so far, one record per edit; kept in the transaction that keeps the edit.
        error: why it failed.
        progress: from 0 to 1.
        eta: seconds until it is done, guessed; None where nothing is known.
    """

    id: int
    user: str
    status: str
    created: float
    ended: float | None
    preferences: tuple[Preference, ...]
    key: str | None
    reports: tuple[Mapping[str, Any], ...]
    error: Mapping[str, Any] | None
    progress: float
    eta: float | None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.status in OPEN


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a learner has taken; ``holder`` tells this claim from earlier ones of the same job."""

    job: Job
    holder: bytes


def packed(content: Mapping[str, Any]) -> bytes:
    """A text as it is kept in clear.

    Raises:
        StoreError: it is too long, or holds something that JSON does not know.
    """
    try:
        plain = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError) as error:
        raise StoreError(f"The job cannot be kept: {error}") from None
    if len(plain) > TEXT_BYTES:
        raise StoreError("The job is too long.", got=f"{len(plain):,} bytes", needed=f"{TEXT_BYTES:,} at most")
    return zlib.compress(plain, 9)


def request_of(user: str, preferences: Iterable[Preference], key: str | None) -> dict[str, Any]:
    """What a job was asked for, for ``packed``."""
    return {"user": user, "key": key, "preferences": [asdict(preference) for preference in preferences]}


def write_text(
    connection: Connection, job: int, owner: bytes, kind: str, content: bytes, encryption: Encryption | None
) -> None:
    """Keep a text of a job, encrypted where the store is."""
    row: dict[str, Any] = {"job": job, "owner": owner, "kind": kind, "wrapped": None, "content": content}
    if encryption is not None:
        # Shared with other writers, not with ``key_rotation.rotate``, which must not miss this one.
        key = encryption.new_key(owner, str(connection.scalar(KEY_ID.with_for_update(read=True))))
        row |= {"wrapped": key.wrapped, "content": key.encrypt(content, f"job {job} {kind}")}
    connection.execute(insert(job_texts).values(id=next_tick(connection), **row))


def read_jobs(connection: Connection, which: ColumnElement[bool], encryption: Encryption | None) -> list[Job]:
    """Jobs, oldest first; a row and its texts come from one statement, so that they belong together.

    Raises:
        StoreError: damaged, or the key is missing.
    """
    parts = [job_texts.c[name].label(f"text_{name}") for name in ("kind", "wrapped", "content")]
    query = select(jobs, *parts).outerjoin(job_texts, job_texts.c.job == jobs.c.id).where(which, jobs.c.owner != b"")
    rows = connection.execute(query.order_by(jobs.c.id, job_texts.c.id)).all()
    return [_job([*group], encryption) for _, group in groupby(rows, lambda row: row.id)]


def _job(rows: Sequence[Any], encryption: Encryption | None) -> Job:
    """One job from its row, repeated for each of its texts."""
    row = rows[0]
    found: dict[str, list[dict[str, Any]]] = {REQUEST: [], REPORT: [], ERROR: []}
    try:
        for text in rows:
            found[text.text_kind].append(_text(text, encryption))
        (request,) = found[REQUEST]
        preferences = [{**one, "phrases": tuple(map(tuple, one["phrases"]))} for one in request["preferences"]]
        return Job(
            id=row.id,
            user=request["user"],
            status=row.status,
            created=row.created,
            ended=row.ended,
            preferences=tuple(Preference(**one) for one in preferences),
            key=request["key"],
            reports=tuple(found[REPORT]),
            error=found[ERROR][-1] if found[ERROR] else None,
            progress=row.progress,
            eta=row.eta,
        )
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"What job {row.id} says is damaged: {error!r}", remedy="run `store verify`, take the last backup"
        ) from None


def _text(row: Any, encryption: Encryption | None) -> dict[str, Any]:
    data = bytes(row.text_content)
    if encryption is not None:
        data = encryption.user_key(row.owner, row.text_wrapped).decrypt(data, f"job {row.id} {row.text_kind}")
    return {**json.loads(zlib.decompress(data).decode("utf-8", "surrogatepass"))}
