"""Every answer that is not what was asked for, in the shape in which OpenAI's clients expect errors.

Clients see what is wrong with their request, never a path, a stack trace or another user's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import HealthError, ModelError, PersonalizationError, QueueFull, RequestError, StoreUnavailable

RETRY_JOBS = 10.0  # seconds; jobs take longer than answers
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
}


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP's.
        message: for the client.
        code: a word for programs.
        param: the field that is at fault.
        retry_after: seconds after which it may work.
        headers: further ones.
        details: further keys of the error object.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, -int(-retry_after // 1)))

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        kind = KINDS.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": {**error, **self.details}}


def busy(what: str) -> ApiError:
    """Too much to do at the moment."""
    return ApiError(503, f"{what} Try again in a moment.", code="overloaded", retry_after=1)


def as_api_error(error: PersonalizationError) -> ApiError | None:
    """What a client may be told of one of our errors; None is for the log only.

    ``got`` of a request's error is the client's own words; a store's errors may name files, and are not passed on.
    """
    if isinstance(error, QueueFull):
        message = f"{error.what} {str(error.remedy).capitalize()}."
        status, code = (429, "too_many_jobs") if error.of_user else (503, "overloaded")
        return ApiError(status, message, code=code, retry_after=RETRY_JOBS)
    if isinstance(error, StoreUnavailable):
        return busy("The store of users' edits cannot be reached.")
    if isinstance(error, RequestError):
        long = "context" in error.what
        return ApiError(
            400, " ".join(str(error).split()), code="context_length_exceeded" if long else "invalid_request"
        )
    if isinstance(error, HealthError):
        return ApiError(422, f"{error.what} Nothing was changed.", code="unhealthy_edit")
    if isinstance(error, ModelError) and "base model" in str(error):
        return ApiError(409, "The user's edits were made for another base model.", code="wrong_base_model")
    return None
