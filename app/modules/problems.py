"""Errors over HTTP: RFC 9457 problem details, from the one table in `app.errors`."""

import json
from collections.abc import Sequence

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from app.errors import Invalid, NotFound, Problem, TooLarge, TrunklineError, http_status

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

_TOO_LARGE = TooLarge(
    "The request's body is too large.", remedy="Send less, or raise TRUNKLINE_MAX_REQUEST_BYTES."
)

_NOT_JSON = Invalid(
    "The request's body is not JSON.", code="invalid_request", remedy="Send a JSON object in UTF-8."
)
_HALF_A_CHARACTER = Invalid(
    "A text in the request's body holds half of a surrogate pair, which is not a character.",
    code="invalid_request",
    remedy="Send whole characters.",
)


class FieldProblemOut(BaseModel):
    """One field that is wrong."""

    path: str = Field(description="Where, such as payload.chat_id")
    code: str
    message: str


class ProblemOut(BaseModel):
    """What went wrong, and what to do (RFC 9457)."""

    type: str = Field(description="Stable identifier of the kind of problem, made of `code`")
    title: str
    status: int
    code: str = Field(description="Stable code for programs")
    remedy: str = Field(description="What to do")
    problems: list[FieldProblemOut] = Field(description="The fields that are wrong")


def problem(error: TrunklineError) -> Response:
    status = http_status(error)
    headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return _response(status, error.code, error.message, error.remedy, error.problems, headers)


def install(app: FastAPI) -> None:
    """Makes every error of the API a problem document."""

    @app.exception_handler(TrunklineError)
    async def known(request: Request, error: TrunklineError) -> Response:
        if error.code == "nul_character" and "\0" in request.scope["path"]:
            return problem(NotFound("such address"))  # no id holds one, whatever the database
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        problems = [
            Problem(_path(e["loc"]), e["type"], e["msg"])
            for e in error.errors()
            if e["type"] != "json_invalid"
        ]
        return problem(
            Invalid(
                "The request is not valid.",
                code="invalid_request",
                remedy="Correct the fields named in problems; /docs describes them.",
                problems=problems,
            )
            if problems
            else _NOT_JSON
        )

    @app.exception_handler(UnicodeEncodeError)
    async def half_a_character(_: Request, error: UnicodeEncodeError) -> Response:
        # JSON can write it, and the first thing that has to encode it says so; nothing of it is stored.
        return problem(_HALF_A_CHARACTER)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        if error.status_code == 400:
            return problem(_NOT_JSON)
        if error.status_code == 413:
            return problem(_TOO_LARGE)
        codes = {404: "not_found", 405: "method_not_allowed"}
        return _response(
            error.status_code,
            codes.get(error.status_code, "http_error"),
            str(error.detail),
            "See /docs for the paths that there are.",
            (),
            dict(error.headers or {}),
        )

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        route = request.scope.get("route")
        log.error("request_failed", route=getattr(route, "path", "?"), exc_info=error)
        return _response(
            500, "internal_error", "Something is wrong here.", "The platform's log says what.", (), {}
        )


def _response(
    status: int, code: str, title: str, remedy: str, problems: Sequence[Problem], headers: dict[str, str]
) -> Response:
    body = {
        "type": f"urn:trunkline:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "remedy": remedy,
        "problems": [{"path": p.path, "code": p.code, "message": p.message} for p in problems],
    }
    # In ASCII: names that a caller made up may hold halves of surrogate pairs, which UTF-8 does not have.
    return Response(json.dumps(body), status, headers, MEDIA_TYPE)


def _path(location: Sequence[int | str]) -> str:
    # FastAPI says where it looked first: ("body", "payload", ...), ("header", "idempotency-key").
    parts = [str(part) for part in location]
    return ".".join(parts[1:] if parts[:1] == ["body"] and len(parts) > 1 else parts)
