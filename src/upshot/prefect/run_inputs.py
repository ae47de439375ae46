"""What flow runs are sent while they run or wait: `pause_flow_run(wait_for_input=...)` and such."""

from typing import Annotated, Any
from uuid import UUID, uuid5

from fastapi import Response
from pydantic import Field, StringConstraints

from upshot.api.answers import json_answer, no_answer
from upshot.api.services import Using
from upshot.core.errors import Conflict, NotFound
from upshot.core.language import Storable
from upshot.core.limits import (
    FLOW_NAME_CHARS_MAX,
    FLOW_RUN_INPUT_CHARS_MAX,
    FLOW_RUN_INPUTS_MAX,
    PREFECT_PAGE_MAX,
)
from upshot.prefect.flow_filters import Texts
from upshot.prefect.routing import Sent, new_router
from upshot.storage import flow_run_inputs
from upshot.storage.flow_run_inputs import RunInput

router = new_router()

Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=FLOW_NAME_CHARS_MAX)]


class InputCreated(Sent):
    key: Key
    value: Annotated[str, Storable, Field(max_length=FLOW_RUN_INPUT_CHARS_MAX)]
    sender: Annotated[str, Storable, Field(max_length=FLOW_NAME_CHARS_MAX)] | None = None


class InputsListed(Sent):
    prefix: Annotated[str, Storable]
    limit: Annotated[int, Field(ge=0, le=PREFECT_PAGE_MAX)] = 1
    exclude_keys: Texts = Field(default=[])


@router.post("/flow_runs/{run_id}/input")
async def create_input(services: Using, run_id: UUID, written: InputCreated) -> Response:
    async with services.database.begin() as conn:
        if not await flow_run_inputs.hold_run(conn, run_id):
            raise NotFound(f"There is no flow run {run_id}.")
        if await flow_run_inputs.count(conn, run_id) >= FLOW_RUN_INPUTS_MAX:
            raise Conflict(
                f"Flow run {run_id} has {FLOW_RUN_INPUTS_MAX:,} inputs that are not deleted; "
                "no more fit."
            )
        if not await flow_run_inputs.create(
            conn, run_id, key=written.key, value=written.value, sender=written.sender
        ):
            raise Conflict(f"Flow run {run_id} has an input {written.key!r} already.")
    return json_answer(None, 201)


@router.post("/flow_runs/{run_id}/input/filter")
async def list_inputs(services: Using, run_id: UUID, asked: InputsListed) -> Response:
    async with services.database.begin() as conn:
        found = await flow_run_inputs.with_prefix(
            conn, run_id, prefix=asked.prefix, without=asked.exclude_keys, limit=asked.limit
        )
    return json_answer([_shown(one) for one in found])


@router.get("/flow_runs/{run_id}/input/{key}")
async def read_input(services: Using, run_id: UUID, key: Key) -> Response:
    """The value alone, as it was sent."""
    async with services.database.begin() as conn:
        found = await flow_run_inputs.load(conn, run_id, key)
    if found is None:
        raise _unknown(run_id, key)
    return Response(found.value, media_type="text/plain")


@router.delete("/flow_runs/{run_id}/input/{key}")
async def delete_input(services: Using, run_id: UUID, key: Key) -> Response:
    async with services.database.begin() as conn:
        if not await flow_run_inputs.remove(conn, run_id, key):
            raise _unknown(run_id, key)
    return no_answer()


def _unknown(run_id: UUID, key: str) -> NotFound:
    return NotFound(f"Flow run {run_id} has no input {key!r}.")


def _shown(found: RunInput) -> dict[str, Any]:
    return {
        "id": uuid5(found.run_id, found.key),
        "created": found.created_at,
        "updated": found.created_at,
        "flow_run_id": found.run_id,
        "key": found.key,
        "value": found.value,
        "sender": found.sender,
    }
