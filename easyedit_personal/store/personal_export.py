"""Everything that a store holds about one person, in files that need no key and no program of ours to be read.

This answers a person's request for their data: words and figures as JSON, factors as safetensors, and the sum of what
is live as a PEFT adapter.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from ..errors import StoreError
from .blobs import Blobs
from .compact import composed
from .database import Database
from .encryption import Encryption
from .factors import factors_from_bytes
from .folders import replace_folder
from .job_rows import Job, read_jobs
from .lora import export_lora
from .queries import read_history, with_keys
from .records import StoredEdit
from .rows import factors_file
from .schema import edits, jobs, read_meta, users
from .shared import SharedFactors

RECORD, FACTORS, ADAPTER = "everything.json", "factors", "adapter"
NOTE = (
    "All that the store holds about this user. Besides this it keeps digests of the user's id and of idempotency keys, "
    "which are salted and tell nothing by themselves. Settings under hparams are shared by many users."
)


def export_all(
    database: Database,
    owner: bytes,
    folder: Path,
    *,
    blobs: Blobs | None,
    encryption: Encryption | None,
    shared: SharedFactors,
) -> Path:
    """Write ``everything.json``, a factors file for each edit, live or undone, and an adapter of the live ones.

    Args:
        database, blobs, encryption, shared: the store's.
        owner: whose (``rows.owner_of``).
        folder: appears whole or not at all; readable by its owner only. An earlier export is replaced.

    Returns:
        The folder.

    Raises:
        StoreError: there is nothing about this user, something is damaged, or the folder holds something else.
    """
    with database.reading() as connection:
        history = read_history(connection, owner, encryption, shared)
        rows = connection.execute(with_keys(select(edits)).where(edits.c.owner == owner).order_by(edits.c.id)).all()
        lookup = shared.read(connection, [row.id for row in rows])
        version = connection.scalar(select(users.c.changed).where(users.c.owner == owner))
        asked = read_jobs(connection, jobs.c.owner == owner, encryption)
        base = {name: read_meta(connection).get(name) for name in ("model", "tokenizer")}
    if not history and not asked:
        raise StoreError("The store holds nothing about this user.", cause="another spelling, or they were forgotten")
    factors = {row.id: factors_file(row, blobs, encryption, lookup) for row in rows}
    record = {"note": NOTE, "user": (history or asked)[0].user, "version": version, "base": base}
    record["edits"] = [_edit(one, bool(factors.get(one.id))) for one in history]
    record["jobs"] = [_job(one) for one in asked]
    have = [row for row in rows if row.live and factors[row.id]]
    live = composed([part for row in have for part in factors_from_bytes(factors[row.id])[0]])

    def write(part: Path) -> None:
        part.chmod(0o700)
        (part / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (part / FACTORS).mkdir()
        for number, data in factors.items():
            if data:
                (part / FACTORS / f"{number}.safetensors").write_bytes(data)
        if live:
            export_lora(live, part / ADAPTER, name=str(record["user"]))

    return replace_folder(folder, write, allowed={RECORD, FACTORS, ADAPTER})


def _job(job: Job) -> dict[str, Any]:
    """What the user asked to have learned, as JSON."""
    fields = asdict(job)
    for name in ("created", "ended"):
        fields[name] = fields[name] and datetime.fromtimestamp(fields[name], UTC).isoformat()
    del fields["user"], fields["progress"], fields["eta"]
    return fields


def _edit(edit: StoredEdit, has_factors: bool) -> dict[str, Any]:
    """An edit as JSON; one that was merged into another has no factors of its own."""
    fields = {**asdict(edit), "created": edit.created.isoformat()}
    del fields["user"], fields["preference"], fields["nbytes"], fields["shared_bytes"]
    return {**fields, "where": edit.where, "factors": f"{FACTORS}/{edit.id}.safetensors" if has_factors else None}
