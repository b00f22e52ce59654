"""``/v1/jobs/{id}``: how far it is with what somebody was told, once, at the end, or step by step; and cancelling it.

Jobs lie in the store, where any process may be working on them: who follows one looks there again and again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from ..store.job_rows import CANCELLED, FAILED, Job
from .api_errors import ApiError
from .core import Service
from .middleware import caller_of
from .records import job_record

MAX_WAIT = 300.0  # seconds
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two looks: a tenth of the time that was waited
ALIVE_SECONDS = 15.0  # proxies cut connections on which nothing comes


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/v1/jobs/{job}")
    async def get(request: Request, job: str) -> Response:
        found = await _job_of(service, request, job)
        if "text/event-stream" in request.headers.get("accept", ""):
            return StreamingResponse(
                _events(service, found), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
            )
        return JSONResponse(job_record(await _ended(service, found, wait_of(request))))

    @routes.delete("/v1/jobs/{job}")
    async def cancel(request: Request, job: str) -> Response:
        found = await _job_of(service, request, job)
        await run_in_threadpool(service.store.jobs.cancel, found.id)
        now = await _again(service, found)
        if now.status != CANCELLED:
            raise ApiError(409, f"The job has ended before: it is {now.status}.", code="job_ended", param="job")
        return JSONResponse(job_record(now))

    return routes


def wait_of(request: Request) -> float:
    """The seconds of ``?wait=``; 0 if not given.

    Raises:
        ApiError: 400.
    """
    given = request.query_params.get("wait", "0")
    if not (given.isascii() and given.replace(".", "", 1).isdigit() and len(given) < 9):
        raise ApiError(400, "wait must be a number of seconds.", code="invalid_value", param="wait")
    return min(float(given), MAX_WAIT)


async def submitted(service: Service, job: Job, seconds: float) -> Response:
    """The answer to who wants something learned: 202 while it is under way, 201 if it was done within the time.

    Raises:
        ApiError: as the job failed within the time.
    """
    now = await _ended(service, job, seconds)
    if now.status == FAILED and now.error is not None:
        error = now.error["error"]
        details = {"job": str(now.id), "learned": list(now.reports)}
        raise ApiError(now.error["status"], error["message"], code=error["code"], param=error["param"], details=details)
    status = 202 if now.is_open else 409 if now.status == CANCELLED else 201
    return JSONResponse(job_record(now), status, {"Location": f"/v1/jobs/{now.id}"})


async def _job_of(service: Service, request: Request, given: str) -> Job:
    """The job in the address, if the caller may act for its user; else there is none, as far as they are told.

    Raises:
        ApiError: 404.
    """
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 19 else 0
    job = await run_in_threadpool(service.store.jobs.get, number)
    try:
        caller_of(request).check(job.user if job else None)
    except ApiError:
        job = None
    if job is None:
        raise ApiError(404, "There is no such job.", code="not_found", param="job")
    return job


async def _again(service: Service, job: Job) -> Job:
    """The job as it is now; cancelled, where its user was forgotten."""
    now = await run_in_threadpool(service.store.jobs.get, job.id)
    return replace(job, status=CANCELLED, reports=(), error=None, eta=None) if now is None else now


async def _ended(service: Service, job: Job, seconds: float) -> Job:
    """The job at its end, or as it is after so many seconds."""
    began = time.monotonic()
    while job.is_open and not service.stopping and (left := began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(left, _pause(began)))
        job = await _again(service, job)
    return job


async def _events(service: Service, job: Job) -> AsyncIterator[str]:
    """The job whenever it has changed, until it has ended."""
    began = last = time.monotonic()
    sent: dict[str, Any] = {}
    while True:
        now, record = time.monotonic(), job_record(job)
        if record != sent:
            yield f"event: job\ndata: {json.dumps(record, ensure_ascii=False)}\n\n"
            sent, last = record, now
        elif now - last > ALIVE_SECONDS:
            yield ": still here\n\n"
            last = now
        if not job.is_open or service.stopping:
            return
        await asyncio.sleep(_pause(began))
        job = await _again(service, job)


def _pause(began: float) -> float:
    return min(LONGEST_PAUSE, max(SHORTEST_PAUSE, (time.monotonic() - began) / 10))
