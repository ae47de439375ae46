"""Concurrency limits, of which there are none: what asks for slots goes on without."""

from typing import Final
from uuid import UUID, uuid4

from fastapi import Response

from upshot.api.answers import json_answer, no_answer
from upshot.api.problems import problem_answer
from upshot.core.errors import NotFound
from upshot.prefect.routing import new_router

router = new_router()

_INSTEAD: Final = (
    "Upshot keeps no concurrency limits by name or tag; a deployment's own `concurrency_limit` "
    "(`flow.serve(global_limit=...)`) says how many of its runs are under way at once."
)


@router.post("/v2/concurrency_limits/increment")
@router.post("/v2/concurrency_limits/decrement")
@router.post("/concurrency_limits/increment")
@router.post("/concurrency_limits/decrement")
async def take_slots() -> Response:
    """The limits of these names that there are. The client warns of it, or fails where it is
    `strict`.
    """
    return json_answer([])


@router.post("/v2/concurrency_limits/increment-with-lease")
async def lease_slots() -> Response:
    return json_answer({"lease_id": uuid4(), "limits": []})


@router.post("/v2/concurrency_limits/decrement-with-lease")
async def release_slots() -> Response:
    return no_answer()


@router.post("/v2/concurrency_limits/leases/{lease_id}/renew")
async def renew_lease(lease_id: UUID) -> Response:
    """A lease of nothing is never lost."""
    return no_answer()


@router.post("/v2/concurrency_limits/filter")
@router.post("/concurrency_limits/filter")
async def list_limits() -> Response:
    return json_answer([])


@router.get("/v2/concurrency_limits/{name:path}")
@router.get("/concurrency_limits/{name:path}")
async def read_limit(name: str) -> Response:
    raise NotFound(f"There is no concurrency limit {name[:100]!r}. {_INSTEAD}")


@router.post("/v2/concurrency_limits")
@router.post("/concurrency_limits")
@router.patch("/v2/concurrency_limits/{name:path}")
@router.delete("/v2/concurrency_limits/{name:path}")
@router.post("/concurrency_limits/tag/{name:path}")
@router.delete("/concurrency_limits/{name:path}")
async def refuse_limits() -> Response:
    return problem_answer(501, _INSTEAD)
