"""What is answered when something is wrong: RFC 9457, the same shape for everything."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from upshot.core.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    Overloaded,
    Problem,
    TooLarge,
    Unauthenticated,
    Unsupported,
    UpshotError,
)
from upshot.core.language import loc_without_kinds
from upshot.core.templates import RenderFailed
from upshot.storage.database import AWAY

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[type[UpshotError], int]] = {
    Malformed: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    Unsupported: 415,
    Invalid: 422,
    RenderFailed: 422,
    Overloaded: 503,
}

RETRY_AFTER_AWAY: Final = 2
_UNMIGRATED: Final = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
_COLLIDED: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

log = structlog.get_logger()


class ProblemItem(BaseModel):
    """One thing that is wrong."""

    loc: list[str | int] = Field(
        description="Where: a path in the body (its index first, in a batch), or `query`, `path` "
        "or `header` and a name."
    )
    msg: str = Field(description="What.")


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What is wrong, and what to do.")
    errors: list[ProblemItem] = Field(description="What is wrong where, if it is known.")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of an operation, for its documentation."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in (*statuses, 401, 403, 422, 503)
    }


BODY: Final = (400, 413, 415)
"""What can be wrong with a body."""


def answer_to(error: Exception, *, known: Sequence[str] = ()) -> Response:
    """The answer to whatever was raised; what is nobody's fault but ours is logged.

    `known` are the fields that could have been meant where one is unknown.
    """
    match error:
        case ClientDisconnect():
            return Response(status_code=400)
        case Overloaded():
            return problem_answer(503, error.message, headers=_retry_after(error.retry_after))
        case UpshotError() if (status := _status_of(error)) is not None:
            return problem_answer(
                status, error.message, problems=error.problems, headers=_headers_of(error)
            )
        case RequestValidationError():
            found = problems_of(error.errors(), known)
            return problem_answer(422, summary_of(found), problems=found)
        case HTTPException():
            return problem_answer(error.status_code, str(error.detail), headers=error.headers)
    if _has_cause(error, (*AWAY, PoolTimeoutError)):
        log.warning("database_away", error=type(error).__name__)
        return problem_answer(
            503, "The database is away. Try again.", headers=_retry_after(RETRY_AFTER_AWAY)
        )
    if _has_cause(error, _UNMIGRATED):
        log.warning("database_unmigrated", error=str(error).partition("\n")[0])
        return problem_answer(
            503,
            "The database has not all its tables yet. Try again.",
            headers=_retry_after(RETRY_AFTER_AWAY),
        )
    if _has_cause(error, _COLLIDED):
        return problem_answer(
            503, "Another request was in the way. Try again.", headers=_retry_after(1)
        )
    log.error("request_raised", exc_info=error)
    return problem_answer(500, "Upshot made a mistake; its log says more.")


def problem_answer(
    status: int,
    detail: str,
    *,
    problems: Sequence[Problem] = (),
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """A problem document; `more` are members of its own that an operation adds."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": [{"loc": problem.loc, "msg": problem.msg} for problem in problems],
        **(more or {}),
    }
    return Response(msgspec.json.encode(document), status, headers=headers, media_type=MEDIA_TYPE)


def problems_of(errors: Sequence[Any], known: Sequence[str] = ()) -> list[Problem]:
    """Pydantic's errors in our words; a path in the body is told without the word `body`."""
    found = []
    for error in errors:
        loc = tuple(error["loc"])
        if loc[:1] == ("body",):
            loc = loc_without_kinds(loc[1:])
        if error["type"] == "unknown_type":
            loc = (*loc, "type")
        found.append(Problem(loc, _message_of(error, loc, known)))
    return found


def prefixed(name: str, found: tuple[Problem, ...] | list[Problem]) -> list[Problem]:
    """Problems inside a field, seen from outside."""
    return [Problem((name, *problem.loc), problem.msg) for problem in found]


def summary_of(found: Sequence[Problem]) -> str:
    """The first problem as a sentence."""
    if not found:
        return "The request is not valid."
    where = ".".join(map(str, found[0].loc))
    return f"{where}: {found[0].msg}" if where else found[0].msg


def _message_of(error: Any, loc: tuple[str | int, ...], known: Sequence[str]) -> str:
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(loc[-1]), known, n=1)
        return f"Unknown field; did you mean '{near[0]}'?" if near else "Unknown field."
    message = str(error["msg"])
    return message.removeprefix("Value error, ")


def _status_of(error: UpshotError) -> int | None:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


def _headers_of(error: UpshotError) -> dict[str, str] | None:
    if isinstance(error, Unauthenticated):
        return {"www-authenticate": 'Bearer realm="upshot"'}
    if isinstance(error, TooLarge):
        # The rest of the body is not read, so nothing more can be said on this connection.
        return {"connection": "close"}
    return None


def _retry_after(seconds: int) -> dict[str, str]:
    return {"retry-after": str(seconds)}


def _has_cause(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether the error is of these kinds, or a wrapper round one that is."""
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__ or (error.orig if isinstance(error, DBAPIError) else None)
    return False
