"""Errors on the wire: `application/problem+json` (RFC 9457) with a code and a remedy.

One table gives each class of error its status. Both APIs use `problem_of`; `install`
makes an ASGI application answer everything that goes wrong in this form.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cairn_agent.protocol.enrolment import Problem
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cairn_appliance.domain import errors
from cairn_appliance.store.port import Conflict, Full, StoreError, Unavailable

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# The first class that fits: special before general.
_STATUS: tuple[tuple[type[errors.CairnError], int, str], ...] = (
    (errors.Invalid, 422, "What was asked for can't be"),
    (errors.NotFound, 404, "There is no such thing"),
    (errors.Ambiguous, 409, "The name fits more than one thing"),
    (errors.Changed, 412, "Changed by someone else meanwhile"),
    (errors.Clash, 409, "It contradicts what there is"),
    (errors.NotSignedIn, 401, "Not signed in"),
    (errors.Refused, 403, "Not permitted"),
    (errors.TooMany, 429, "Too many requests"),
    (errors.Unavailable, 503, "Not available for the moment"),
)
_HTTP_CODES: Mapping[int, tuple[str, str]] = {
    400: ("bad_request", "send a request as the OpenAPI description has it"),
    404: ("unknown_route", "look at /api/v1/openapi.json for what there is"),
    405: ("method_not_allowed", "look at /api/v1/openapi.json for what there is"),
    413: ("too_large", "send less in one request"),
    428: ("if_match_required", "read it first and send its ETag header as If-Match"),
    415: ("unsupported_media_type", "send JSON with content-type: application/json"),
}


def problem_of(error: Exception) -> Problem:
    """Return what to tell the caller; an error that nobody foresaw tells nothing of itself."""
    if isinstance(error, Full):
        return problem_of(errors.StoreFull("the store is full: changes are refused"))
    if isinstance(error, Unavailable):
        return problem_of(errors.Unavailable("the store gives no answer in time"))
    if isinstance(error, Conflict):
        return problem_of(errors.Changed("it was changed by someone else at the same time"))
    if isinstance(error, errors.CairnError):
        for kind, status, title in _STATUS:
            if isinstance(error, kind):
                return Problem(title, status, error.code, error.cause, error.remedy)
    unforeseen = errors.CairnError
    return Problem(
        "An error of the appliance",
        500,
        unforeseen.code,
        "the appliance met something that it was not made for",
        unforeseen.remedy,
    )


def headers_of(error: Exception) -> dict[str, str]:
    """Return the headers that belong to the answer."""
    if isinstance(error, errors.NotSignedIn):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, errors.TooMany | errors.Unavailable):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, Unavailable):
        kind = errors.StoreFull if isinstance(error, Full) else errors.Unavailable
        return {"Retry-After": str(math.ceil(kind.retry_after_s))}
    return {}


def answer(problem: Problem, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """Return the problem as a response; `more` is what this kind of problem adds."""
    body = {**msgspec.to_builtins(problem), **more}
    return Response(
        msgspec.json.encode(body), problem.status, dict(headers or {}), media_type=MEDIA_TYPE
    )


def answer_alive() -> Response:
    """Return what says that the process is alive."""
    return Response(b'{"alive":true,"status":"ok"}', media_type="application/json")


def answer_error(error: Exception) -> Response:
    """Return the response to any error; log those that are our own fault."""
    problem = problem_of(error)
    if problem.status == 500:
        log.error("unforeseen error", exc_info=error)
    return answer(problem, headers_of(error))


def answer_invalid(problems: Sequence[tuple[str, str]]) -> Response:
    """Return the response to a request that breaks its schema: (field, what is wrong)."""
    field, message = problems[0]
    problem = Problem(
        "What was asked for can't be",
        422,
        errors.Invalid.code,
        f"{field}: {message}" if field else message,
        errors.Invalid.remedy,
    )
    return answer(problem, errors=[{"field": at, "message": text} for at, text in problems])


def answer_http(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response to what HTTP itself forbids."""
    code, remedy = _HTTP_CODES.get(status, ("http_error", ""))
    return answer(Problem(detail, status, code, detail, remedy), headers)


def install(app: FastAPI) -> None:
    """Make the application answer every error as a problem."""
    app.add_exception_handler(errors.CairnError, _on_error)
    app.add_exception_handler(StoreError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_error)


async def _on_error(_: Request, error: Exception) -> Response:
    return answer_error(error)


async def _on_invalid(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return answer_invalid([(_field(each["loc"]), str(each["msg"])) for each in error.errors()])


async def _on_http(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return answer_http(error.status_code, str(error.detail), error.headers)


def _field(location: Sequence[int | str]) -> str:
    """Return where it is, without "body" or "query" before it."""
    return ".".join(str(part) for part in location[1:])
