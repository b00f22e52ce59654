"""What clients are shown of edits, preferences and jobs, as JSON."""

from __future__ import annotations

from typing import Any

from ..learning.learned import Learned
from ..store.job_rows import Job
from ..store.records import StoredEdit
from ..types import Preference


def job_record(job: Job) -> dict[str, Any]:
    """A job; ``result`` is there once it has ended, also where it was cancelled after one of several edits."""
    result: dict[str, Any] | None = None
    if not job.is_open:
        result = {"object": "list", "data": list(job.reports)}
        if job.error is not None:
            result["error"] = job.error["error"]
    return {
        "object": "job",
        "job": str(job.id),
        "created": int(job.created),
        "status": job.status,
        "progress": round(job.progress, 3),
        "eta_s": None if job.eta is None else round(job.eta, 1),
        "result": result,
    }


def learned_record(learned: Learned) -> dict[str, Any]:
    """What came of a preference."""
    asked = learned.test.replies if learned.test else ()
    return {
        "object": "preference",
        "edit": learned.edit,
        **said(learned.preference),
        "where": learned.where,
        "why": learned.why,
        "before": learned.before,
        "after": learned.after,
        "seconds": round(learned.seconds, 3),
        "bytes": learned.nbytes,
        "health": dict(learned.health),
        "self_test": [{"asks": one.asks, "question": one.question, "answer": one.answer} for one in asked],
        "overruled": [said(one) for one in learned.overruled],
    }


def edit_record(edit: StoredEdit) -> dict[str, Any]:
    """An edit of a user's history."""
    return {
        "object": "edit",
        "edit": edit.id,
        "created": int(edit.created.timestamp()),
        "live": edit.live,
        "where": edit.where,
        "why": edit.why,
        "kernel": edit.kernel,
        "bytes": edit.nbytes,
        "shared_bytes": edit.shared_bytes,
        "health": dict(edit.health),
        "merged": edit.merged,
        "preferences": [said(one) for one in edit.preferences],
    }


def said(preference: Preference) -> dict[str, str]:
    """What a preference says."""
    return {
        "subject": preference.subject,
        "question": preference.question,
        "target": preference.target,
        "text": preference.text,
    }
