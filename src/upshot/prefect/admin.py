"""What the client asks of the server itself before and beside its work."""

import re
from typing import Annotated, Final

from fastapi import APIRouter, Header, Response

from upshot.api.answers import json_answer
from upshot.api.problems import problem_answer
from upshot.api.services import Using
from upshot.core.errors import Invalid
from upshot.prefect.routing import new_router

router = new_router()
without_key = APIRouter()

NEWEST_KNOWN: Final = "3.8.8"
_CLIENT: Final = re.compile(r"prefect/(3\.\d+\.\d+)", re.ASCII)


@router.get("/csrf-token")
async def csrf_token() -> Response:
    """API keys need no such token; this is how Prefect's server says so."""
    raise Invalid("CSRF protection is disabled.")


@router.get("/admin/version")
@router.get("/version")
async def version(user_agent: Annotated[str, Header()] = "") -> Response:
    """The version of the client that asks: it is answered as its own server would."""
    named = _CLIENT.search(user_agent)
    return json_answer(named[1] if named else NEWEST_KNOWN)


@without_key.get("/health")
async def health() -> Response:
    return json_answer(True)


@without_key.get("/ready")
async def ready(services: Using) -> Response:
    reason = services.not_ready()
    return json_answer(True) if reason is None else problem_answer(503, reason)


@router.get("/hello")
async def hello() -> Response:
    return json_answer("\N{WAVING HAND SIGN}")


@router.get("/admin/storage")
async def storage() -> Response:
    """Results are kept where the flow says, and by default with the runner."""
    return json_answer({"default_result_storage_block_id": None})
