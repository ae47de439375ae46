"""Triggers as they are registered. What the evaluator goes by is what the log says of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Row, Select, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.storage.log import append_own
from upshot.storage.schema import triggers, windows

SAVED: Final = "upshot.trigger.saved"
DELETED: Final = "upshot.trigger.deleted"
KEY_FORGOTTEN: Final = "upshot.key.forgotten"

Keys = Literal["keep", "forget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrigger:
    """A registered trigger; `document` is what a client wrote, without the name."""

    id: UUID
    number: int
    name: str
    version: int
    document: dict[str, Any]
    created_at: datetime
    updated_at: datetime


async def create(
    conn: AsyncConnection, *, trigger_id: UUID, name: str, document: Mapping[str, Any]
) -> StoredTrigger | None:
    """None: there is one of this name already."""
    row = (
        await conn.execute(
            insert(triggers)
            .values(
                id=trigger_id,
                name=name,
                version=1,
                document=document,
                deployment=document["deployment"],
                enabled=document["enabled"],
            )
            .on_conflict_do_nothing(index_elements=[triggers.c.name])
            .returning(triggers)
        )
    ).one_or_none()
    return row and _trigger(row)


async def replace(
    conn: AsyncConnection, trigger_id: UUID, *, name: str, document: Mapping[str, Any]
) -> StoredTrigger:
    """The next version of a trigger whose row is locked.

    Raises:
        sqlalchemy.exc.IntegrityError: another trigger has this name.
    """
    row = await conn.execute(
        update(triggers)
        .where(triggers.c.id == trigger_id)
        .values(
            name=name,
            version=triggers.c.version + 1,
            document=document,
            deployment=document["deployment"],
            enabled=document["enabled"],
            updated_at=func.now(),
        )
        .returning(triggers)
    )
    return _trigger(row.one())


async def load(conn: AsyncConnection, name: str) -> StoredTrigger | None:
    return await _one(conn, select(triggers).where(triggers.c.name == name))


async def load_all(
    conn: AsyncConnection, trigger_ids: Collection[UUID]
) -> dict[UUID, StoredTrigger]:
    """Those of these triggers that there are, by id."""
    rows = await conn.execute(select(triggers).where(triggers.c.id.in_(trigger_ids)))
    return {row.id: _trigger(row) for row in rows}


async def lock(conn: AsyncConnection, name: str) -> StoredTrigger | None:
    """Load it, and keep others from changing it until the transaction ends."""
    return await _one(conn, select(triggers).where(triggers.c.name == name).with_for_update())


async def page(conn: AsyncConnection, *, after: str, limit: int) -> Sequence[StoredTrigger]:
    """By name, those after `after`."""
    rows = await conn.execute(
        select(triggers).where(triggers.c.name > after).order_by(triggers.c.name).limit(limit)
    )
    return [_trigger(row) for row in rows]


async def remove(conn: AsyncConnection, trigger_id: UUID) -> None:
    await conn.execute(delete(triggers).where(triggers.c.id == trigger_id))


async def open_keys(conn: AsyncConnection, number: int) -> int:
    """How many keys of a trigger are open (windows_by_age)."""
    count = await conn.scalar(
        select(func.count())
        .select_from(windows)
        .where(
            windows.c.trigger_number == number,
            windows.c.started_at.is_not(None),
            or_(
                windows.c.alarms,
                windows.c.deadline_at.is_(None),
                windows.c.deadline_at > func.now(),
            ),
        )
    )
    return count or 0


async def append_saved(
    conn: AsyncConnection, trigger: StoredTrigger, *, keys: Keys, condition_changed: bool
) -> None:
    """Tell the evaluator that this version holds from here on."""
    await _append(
        conn,
        SAVED,
        trigger,
        {
            "document": {"name": trigger.name, **trigger.document},
            "keys": keys,
            "condition_changed": condition_changed,
        },
    )


async def append_deleted(conn: AsyncConnection, trigger: StoredTrigger) -> None:
    """Tell the evaluator that the trigger and its keys end here."""
    await _append(conn, DELETED, trigger, {})


async def append_key_forgotten(
    conn: AsyncConnection, trigger: StoredTrigger, *, key: Sequence[str]
) -> UUID:
    """Tell the evaluator to forget what is open for a key; answers the entry's id."""
    return await _append(conn, KEY_FORGOTTEN, trigger, {"key": list(key)})


async def _append(
    conn: AsyncConnection, event: str, trigger: StoredTrigger, more: Mapping[str, Any]
) -> UUID:
    return await append_own(
        conn,
        name=event,
        resource_id=f"upshot.trigger.{trigger.id}",
        resource_name=trigger.name,
        payload={
            "id": str(trigger.id),
            "number": trigger.number,
            "version": trigger.version,
            "name": trigger.name,
            **more,
        },
    )


async def _one(conn: AsyncConnection, query: Select[Any]) -> StoredTrigger | None:
    row = (await conn.execute(query)).one_or_none()
    return row and _trigger(row)


def _trigger(row: Row[Any]) -> StoredTrigger:
    return StoredTrigger(
        id=row.id,
        number=row.number,
        name=row.name,
        version=row.version,
        document=row.document,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
