"""Automations: triggers, as Prefect's client makes, changes, finds and deletes them."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from fastapi import Body, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import json_answer, no_answer
from upshot.api.paging import QueryText
from upshot.api.services import Using
from upshot.api.triggers import check
from upshot.core.errors import Conflict, NotFound
from upshot.core.language import AnyTrigger, read_trigger, same_condition, stored_document
from upshot.core.limits import (
    NAME_CHARS_MAX,
    OWNED_KEPT_AFTER_THE_NEXT_FOR,
    OWNED_KEPT_FOR,
    OWNED_LOOKED_AT_MAX,
    PREFECT_PAGE_MAX,
)
from upshot.prefect.actions import ids_of, names_of
from upshot.prefect.automation_bodies import (
    AutomationChanged,
    AutomationMade,
    AutomationPatched,
    Counted,
    Filtered,
    replaced,
    shown,
    written_of,
)
from upshot.prefect.routing import new_router
from upshot.prefect.takeover import same_as_sent
from upshot.storage import automations, triggers
from upshot.storage.automations import StoredAutomation
from upshot.storage.triggers import Keys, StoredTrigger

router = new_router()

_DEPLOYMENT: Final = re.compile(r"prefect\.deployment\.([0-9a-f-]{36})")
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")


@router.post("/automations")
async def create_automation(services: Using, sent: AutomationMade) -> Response:
    """One that is as it was before its owner's were deleted goes on with its open keys."""
    async with services.database.begin() as conn:
        written = await _written(conn, sent)
        before = await _before(conn, sent, written)
        if before is None:
            trigger = await _create(conn, sent.name, written)
        else:
            trigger = await _change(conn, before.trigger, written)
        await automations.save(conn, trigger.id, name=sent.name, owner_resource=sent.owner_resource)
        if sent.owner_resource is not None:
            await automations.hasten(
                conn, [sent.owner_resource], within=OWNED_KEPT_AFTER_THE_NEXT_FOR
            )
        (made,) = await _shown(conn, [await _one(conn, trigger.id)])
    services.wake("evaluate")
    return json_answer(made, 201)


@router.put("/automations/{automation_id}")
async def update_automation(
    automation_id: str, services: Using, sent: AutomationChanged
) -> Response:
    async with services.database.begin() as conn:
        automation = await _locked(conn, automation_id)
        written = replaced(automation, sent.name, await _written(conn, sent))
        await _change(conn, automation.trigger, written)
        await automations.save(
            conn,
            automation.trigger.id,
            name=sent.name,
            owner_resource=automation.owner_resource,
        )
    services.wake("evaluate")
    return no_answer()


@router.patch("/automations/{automation_id}")
async def patch_automation(
    automation_id: str, services: Using, patch: AutomationPatched
) -> Response:
    """Pauses or resumes it, and nothing else."""
    async with services.database.begin() as conn:
        automation = await _locked(conn, automation_id)
        if patch.enabled is not None:
            document = {**automation.trigger.document, "enabled": patch.enabled}
            await _change(conn, automation.trigger, read_trigger(document))
    services.wake("evaluate")
    return no_answer()


@router.delete("/automations/{automation_id}")
async def delete_automation(automation_id: str, services: Using) -> Response:
    async with services.database.begin() as conn:
        automation = await _locked(conn, automation_id)
        await triggers.append_deleted(conn, automation.trigger)
        await triggers.remove(conn, automation.trigger.id)
    services.wake("evaluate")
    return no_answer()


@router.post("/automations/filter")
async def read_automations(
    services: Using, sent: Annotated[Filtered | None, Body()] = None
) -> Response:
    """Triggers made through /v1 are among them."""
    asked = sent or Filtered()
    async with services.database.begin() as conn:
        found = await automations.page(
            conn,
            asked.wanted(),
            sort=asked.sort or "NAME_ASC",
            limit=PREFECT_PAGE_MAX if asked.limit is None else asked.limit,
            offset=asked.offset,
        )
        return json_answer(await _shown(conn, found))


@router.post("/automations/count")
async def count_automations(
    services: Using, sent: Annotated[Counted | None, Body()] = None
) -> Response:
    async with services.database.begin() as conn:
        return json_answer(await automations.count(conn, (sent or Counted()).wanted()))


@router.get("/automations/related-to/{resource_id:path}")
async def read_related_automations(resource_id: QueryText, services: Using) -> Response:
    """Those that the resource owns, and, for a deployment, those that run it."""
    async with services.database.begin() as conn:
        found = await automations.related_to(
            conn,
            resource_id,
            deployment=await _deployment_of(conn, resource_id),
            limit=PREFECT_PAGE_MAX,
        )
        return json_answer(await _shown(conn, found))


@router.delete("/automations/owned-by/{resource_id:path}")
async def delete_owned_automations(resource_id: QueryText, services: Using) -> Response:
    """They are gone from every list at once, and in force for a little while.

    A runner that starts deletes its automations and makes them anew. Meanwhile no event is lost,
    and those that are the same keep their open keys (see `takeover`).
    """
    async with services.database.begin() as conn:
        await automations.lock_owner(conn, resource_id)
        await automations.end_of_owner(conn, resource_id, within=OWNED_KEPT_FOR)
    return json_answer(None, 202)


@router.get("/automations/{automation_id}")
async def read_automation(automation_id: str, services: Using) -> Response:
    async with services.database.begin() as conn:
        found = await automations.load(conn, _id_of(automation_id))
        if found is None:
            raise _unknown(automation_id)
        (automation,) = await _shown(conn, [found])
    return json_answer(automation)


async def _written(conn: AsyncConnection, sent: AutomationChanged) -> AnyTrigger:
    ids = ids_of(sent.actions)
    return written_of(sent, await automations.targets(conn, ids=ids) if ids else ())


async def _before(
    conn: AsyncConnection, sent: AutomationMade, written: AnyTrigger
) -> StoredAutomation | None:
    """The automation that goes on as the one that is sent, if there is such a one."""
    if sent.owner_resource is None:
        return None
    await automations.lock_owner(conn, sent.owner_resource)
    owned = await automations.lock_of_owner(conn, sent.owner_resource, limit=OWNED_LOOKED_AT_MAX)
    return same_as_sent(owned, sent.name, written)


async def _create(conn: AsyncConnection, name: str, written: AnyTrigger) -> StoredTrigger:
    await check(conn, written)
    trigger_id = uuid4()
    slug = _slug_of(name)
    for free in (slug, f"{slug[: NAME_CHARS_MAX - 9]}-{trigger_id.hex[:8]}", trigger_id.hex):
        made = await triggers.create(
            conn, trigger_id=trigger_id, name=free, document=stored_document(written)
        )
        if made is not None:
            await triggers.append_saved(conn, made, keys="forget", condition_changed=True)
            return made
    raise Conflict(f"No name is free for automation {name!r}. Try again.")


async def _change(
    conn: AsyncConnection, stored: StoredTrigger, written: AnyTrigger
) -> StoredTrigger:
    """The next version of a trigger that is locked; the same one where nothing changes.

    Its name below /v1 stays, also when the automation gets another.
    """
    before = read_trigger(stored.document)
    document = stored_document(written)
    if stored_document(before) == document:
        return stored
    await check(conn, written)
    is_same = same_condition(before, written)
    keys: Keys = "keep" if is_same else "forget"
    changed = await triggers.replace(conn, stored.id, name=stored.name, document=document)
    await triggers.append_saved(conn, changed, keys=keys, condition_changed=not is_same)
    return changed


async def _shown(conn: AsyncConnection, found: Sequence[StoredAutomation]) -> list[dict[str, Any]]:
    names = {name for one in found for name in names_of(one.trigger.document)}
    targets = await automations.targets(conn, names=names) if names else ()
    by_name = {target.name: target for target in targets}
    return [shown(one, by_name) for one in found]


async def _deployment_of(conn: AsyncConnection, resource_id: str) -> str | None:
    """The name of the deployment that a resource is."""
    named = _DEPLOYMENT.fullmatch(resource_id)
    try:
        found = await automations.targets(conn, ids=[UUID(named[1])]) if named else ()
    except ValueError:
        return None
    return found[0].name if found else None


async def _one(conn: AsyncConnection, automation_id: UUID) -> StoredAutomation:
    found = await automations.load(conn, automation_id)
    assert found is not None
    return found


async def _locked(conn: AsyncConnection, automation_id: str) -> StoredAutomation:
    found = await automations.lock(conn, _id_of(automation_id))
    if found is None:
        raise _unknown(automation_id)
    return found


def _slug_of(name: str) -> str:
    """A name as /v1 has it, as like this one as it can be."""
    slug = _NO_NAME.sub("-", name).lstrip("._-").rstrip("-")
    return slug[:NAME_CHARS_MAX] or "automation"


def _id_of(automation_id: str) -> UUID:
    try:
        return UUID(automation_id)
    except ValueError:
        raise _unknown(automation_id) from None


def _unknown(automation_id: str) -> NotFound:
    return NotFound(f"There is no automation with the id {automation_id!r}.")
