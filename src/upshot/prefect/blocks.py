"""Webhook blocks: deployments with a plain webhook, which the action call-webhook runs."""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID, uuid4

from fastapi import Query, Request, Response
from pydantic import BeforeValidator, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import json_answer, no_answer
from upshot.api.auth import ADMIN
from upshot.api.deployments import RUN_TIMEOUT_DEFAULT, delete_locked
from upshot.api.services import Using
from upshot.core.delivery import Runner
from upshot.core.errors import Conflict, NotFound
from upshot.core.language import JsonObject
from upshot.core.limits import BLOCK_NAME_CHARS_MAX, CONCURRENCY_DEFAULT
from upshot.prefect.block_filters import Asked, DocumentFilter, Filtered
from upshot.prefect.block_types import check_schema, check_slug, check_type
from upshot.prefect.routing import Sent, new_router
from upshot.prefect.webhook_blocks import (
    SCHEMA_ID,
    SLUG,
    TYPE_ID,
    changed,
    data_of,
    merged,
    obfuscated,
    rest_of,
    runner_of,
    schema_shown,
    type_shown,
)
from upshot.storage import breakers, deployments, webhook_blocks
from upshot.storage.deployments import Deployment, DeploymentFields
from upshot.storage.webhook_blocks import Wanted, WebhookBlock

router = new_router()

_NAME: Final = r"[a-z0-9-]+"
BlockName = Annotated[str, Field(pattern=f"^{_NAME}$", max_length=BLOCK_NAME_CHARS_MAX)]
WithSecrets = Annotated[bool, Query(description="Whether to answer secrets as they are.")]
# The client writes `limit=` when it has none.
Rows = Annotated[
    Annotated[int, Field(ge=0)] | None, BeforeValidator(lambda sent: None if sent == "" else sent)
]
Found = TypeVar("Found")


class DocumentCreate(Sent):
    name: BlockName | None = None
    data: JsonObject = Field(default={})
    block_schema_id: UUID
    block_type_id: UUID
    is_anonymous: bool = False


class DocumentUpdate(Sent):
    block_schema_id: UUID | None = None
    data: JsonObject | None = None
    merge_existing_data: bool = True


@router.get("/block_types/slug/{slug}/block_documents")
async def list_documents_of_type(
    request: Request,
    services: Using,
    slug: str,
    include_secrets: WithSecrets = False,
    offset: Rows = None,
    limit: Rows = None,
) -> Response:
    check_slug(slug)
    asked = Filtered.model_validate(
        {"include_secrets": include_secrets, "offset": offset or 0, "limit": limit}
    )
    return json_answer(await _documents(request, services, asked))


@router.get("/block_types/slug/{slug}/block_documents/name/{name}")
async def read_document_by_name(
    request: Request,
    services: Using,
    slug: str,
    name: str,
    include_secrets: WithSecrets = False,
) -> Response:
    check_slug(slug)
    await _admit_to_secrets(request, include_secrets)
    block = None
    if re.fullmatch(_NAME, name):
        async with services.database.begin() as conn:
            block = await webhook_blocks.find(conn, name)
    if block is None:
        raise NotFound(f"There is no webhook block {name!r}.")
    return json_answer(shown(block, include_secrets=include_secrets))


@router.get("/block_documents/{block_id}")
async def read_document(
    request: Request, services: Using, block_id: UUID, include_secrets: WithSecrets = False
) -> Response:
    await _admit_to_secrets(request, include_secrets)
    async with services.database.begin() as conn:
        block = await webhook_blocks.load(conn, block_id)
    return json_answer(shown(_there(block, block_id), include_secrets=include_secrets))


@router.post("/block_documents/filter")
async def list_documents(request: Request, services: Using, asked: Asked = None) -> Response:
    return json_answer(await _documents(request, services, asked or Filtered()))


@router.post("/block_documents/count")
async def count_documents(services: Using, asked: Asked = None) -> Response:
    asked = asked or Filtered()
    if not asked.takes_webhooks():
        return json_answer(0)
    async with services.database.begin() as conn:
        return json_answer(await webhook_blocks.count(conn, _wanted(asked)))


@router.post("/block_documents")
async def create_document(services: Using, written: DocumentCreate) -> Response:
    check_type(written.block_type_id)
    check_schema(written.block_schema_id)
    block_id = uuid4()
    name = written.name or (f"anonymous-{block_id}" if written.is_anonymous else None)
    if name is None:
        raise Conflict("A block that is not anonymous needs a name.")
    runner = runner_of(written.data)
    details = {"rest": rest_of(written.data), "is_anonymous": written.is_anonymous}
    async with services.database.begin() as conn:
        made = await _deploy(conn, name=name, block_id=block_id, runner=runner)
        if not await webhook_blocks.create(
            conn, block_id=block_id, name=name, deployment_id=made.id, details=details
        ):
            raise Conflict(f"There is a webhook block {name!r} already.")
        block = _there(await webhook_blocks.load(conn, block_id), block_id)
    return json_answer(shown(block, include_secrets=False), 201)


@router.patch("/block_documents/{block_id}")
async def update_document(services: Using, block_id: UUID, written: DocumentUpdate) -> Response:
    """Its runs that wait are called as it is now."""
    if written.block_schema_id is not None:
        check_schema(written.block_schema_id)
    async with services.database.begin() as conn:
        block = _there(await webhook_blocks.lock(conn, block_id), block_id)
        if written.data is not None:
            data = merged(_data_of(block), written.data, keep=written.merge_existing_data)
            await _call_otherwise(conn, block, changed(block.runner, data))
            details = {**block.details, "rest": rest_of(data)}
            await webhook_blocks.replace(conn, block_id, details=details)
    services.wake("deliver")
    return no_answer()


@router.delete("/block_documents/{block_id}")
async def delete_document(services: Using, block_id: UUID) -> Response:
    """Its open runs are cancelled. One that automations call is kept, with a 409."""
    async with services.database.begin() as conn:
        block = _there(await webhook_blocks.lock(conn, block_id), block_id)
        await delete_locked(conn, await _deployment_of(conn, block))
    return no_answer()


def shown(block: WebhookBlock, *, include_secrets: bool) -> dict[str, Any]:
    """A block as the client reads it."""
    data = _data_of(block)
    return {
        "id": block.id,
        "created": block.created_at,
        "updated": block.updated_at,
        "name": block.name,
        "data": data if include_secrets else obfuscated(data),
        "block_schema_id": SCHEMA_ID,
        "block_schema": schema_shown(),
        "block_type_id": TYPE_ID,
        "block_type_name": type_shown()["name"],
        "block_type": type_shown(),
        "block_document_references": {},
        "is_anonymous": block.details["is_anonymous"],
    }


async def _documents(request: Request, services: Using, asked: Filtered) -> list[dict[str, Any]]:
    await _admit_to_secrets(request, asked.include_secrets)
    if not asked.takes_webhooks():
        return []
    async with services.database.begin() as conn:
        found = await webhook_blocks.page(
            conn, _wanted(asked), offset=asked.offset, limit=asked.limit
        )
    return [shown(block, include_secrets=asked.include_secrets) for block in found]


def _wanted(asked: Filtered) -> Wanted:
    return (asked.block_documents or DocumentFilter()).wanted()


async def _admit_to_secrets(request: Request, include_secrets: bool) -> None:
    """Reading takes a key of any scope for reading; what may call the endpoint takes an admin's."""
    if include_secrets:
        await request.app.state.guard.admit(request, ADMIN)


async def _deploy(
    conn: AsyncConnection, *, name: str, block_id: UUID, runner: Runner
) -> Deployment:
    fields_of_it = DeploymentFields(
        description=f"The webhook block {name!r} of Prefect's client.",
        tags=[],
        runner=runner,
        parameters={},
        parameter_schema=None,
        max_concurrency=CONCURRENCY_DEFAULT,
        run_timeout=RUN_TIMEOUT_DEFAULT,
        overlap="allow",
        enabled=True,
    )
    slug = name.lstrip("-") or SLUG
    for candidate in (slug, f"{slug}-{block_id.hex[:8]}"):
        made = await deployments.create(
            conn, name=candidate, deployment_id=uuid4(), fields=fields_of_it
        )
        if made is not None:
            return made
    raise Conflict(f"There is a deployment {candidate!r} already. Try again.")


async def _call_otherwise(conn: AsyncConnection, block: WebhookBlock, runner: Runner) -> None:
    stored = await _deployment_of(conn, block)
    if stored.runner == runner:
        return
    before = DeploymentFields(
        **{field.name: getattr(stored, field.name) for field in fields(DeploymentFields)}
    )
    await deployments.replace(conn, name=block.deployment, fields=replace(before, runner=runner))
    # What is known of an endpoint says nothing of another.
    await breakers.forget(conn, stored.id)


async def _deployment_of(conn: AsyncConnection, block: WebhookBlock) -> Deployment:
    return _there(await deployments.lock(conn, block.deployment), block.id)


def _data_of(block: WebhookBlock) -> dict[str, Any]:
    rest: Mapping[str, Any] = block.details["rest"]
    return data_of(block.runner, rest)


def _there(found: Found | None, block_id: UUID) -> Found:
    if found is None:
        raise NotFound(f"There is no webhook block {block_id}.")
    return found
