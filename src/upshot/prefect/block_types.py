"""The type of block that there is, and its schema, which the client registers before a block."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import Path, Response
from starlette.exceptions import HTTPException

from upshot.api.answers import json_answer, no_answer
from upshot.core.errors import Conflict, NotFound
from upshot.core.limits import CHECKSUM_CHARS_MAX
from upshot.prefect.block_filters import Asked, Filtered, Text
from upshot.prefect.routing import Sent, new_router
from upshot.prefect.webhook_blocks import SCHEMA_ID, SLUG, TYPE_ID, schema_shown, type_shown

NO_SUCH_BLOCKS: Final = (
    f"Upshot has one type of block, {SLUG!r}; keep other settings and secrets in the environment "
    "of the process that runs the flow, or in its code."
)

router = new_router()


class TypeCreate(Sent):
    slug: Text


class SchemaCreate(Sent):
    block_type_id: UUID | None = None


@router.get("/block_types/slug/{slug}")
async def read_type_by_slug(slug: str) -> Response:
    check_slug(slug)
    return json_answer(type_shown())


@router.get("/block_types/{type_id}")
async def read_type(type_id: UUID) -> Response:
    check_type(type_id)
    return json_answer(type_shown())


@router.post("/block_types")
async def create_type(written: TypeCreate) -> Response:
    check_slug(written.slug)
    raise Conflict(f"There is a block type {SLUG!r} already.")


@router.post("/block_types/filter")
async def list_types(asked: Asked = None) -> Response:
    return json_answer((asked or Filtered()).those_of(type_shown()))


@router.patch("/block_types/{type_id}")
async def update_type(type_id: UUID) -> Response:
    """Versions of the client differ in its logo and its texts, and each would have its own."""
    check_type(type_id)
    return no_answer()


@router.delete("/block_types/{type_id}")
async def delete_type(type_id: UUID) -> Response:
    check_type(type_id)
    # The client knows this one by its words.
    raise HTTPException(403, "protected block types cannot be deleted.")


@router.get("/block_schemas/checksum/{checksum}")
async def read_schema_by_checksum(
    checksum: Annotated[str, Path(max_length=CHECKSUM_CHARS_MAX)],
) -> Response:
    return json_answer(schema_shown(checksum))


@router.get("/block_schemas/{schema_id}")
async def read_schema(schema_id: UUID) -> Response:
    check_schema(schema_id)
    return json_answer(schema_shown())


@router.post("/block_schemas")
async def create_schema(written: SchemaCreate) -> Response:
    check_type(written.block_type_id)
    return json_answer(schema_shown())


@router.post("/block_schemas/filter")
async def list_schemas(asked: Asked = None) -> Response:
    return json_answer((asked or Filtered()).those_of(schema_shown()))


@router.delete("/block_schemas/{schema_id}")
async def delete_schema(schema_id: UUID) -> Response:
    check_schema(schema_id)
    raise HTTPException(403, "The schema of webhooks cannot be deleted.")


def check_slug(slug: str) -> None:
    """Raises where a client asks for a type that there is not."""
    if slug != SLUG:
        raise HTTPException(501, NO_SUCH_BLOCKS)


def check_type(type_id: UUID | None) -> None:
    if type_id != TYPE_ID:
        raise NotFound(f"There is no block type {type_id}; there is only {SLUG!r}.")


def check_schema(schema_id: UUID) -> None:
    if schema_id != SCHEMA_ID:
        raise NotFound(f"There is no block schema {schema_id}; register the block again.")
