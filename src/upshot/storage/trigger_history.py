"""Where one event and the changes of one trigger stand in the log, for who looks back at them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from upshot.storage.events import Place
from upshot.storage.triggers import KEY_FORGOTTEN, SAVED


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An event's place in the log, and how far it has got."""

    place: Place
    is_evaluated: bool
    """Passed by the evaluator, which may still hold it."""
    evaluated_until: datetime | None
    held_until: datetime | None
    """None: it does not wait for another event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A change of a trigger as the log has it; `payload` is JSON."""

    place: Place
    name: str
    received_at: datetime
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An event in a chain of `follows`."""

    id: UUID
    follows: UUID | None
    received_at: datetime
    place: Place


STANDING = """
SELECT e.xid::text::int8 AS xid, e.position, c.evaluated_until, h.until AS held_until,
       coalesce(pg_visible_in_snapshot(e.xid, c.snapshot)
                OR (pg_visible_in_snapshot(e.xid, c.page_snapshot)
                    AND (e.xid, e.position) <= (c.page_xid, c.page_position)), false) AS evaluated
FROM events AS e
LEFT JOIN cursors AS c ON c.name = 'evaluate'
LEFT JOIN held_events AS h ON h.id = e.id
WHERE e.id = $1 ORDER BY e.xid, e.position LIMIT 1
"""

ENTRIES = """
SELECT xid::text::int8 AS xid, position, received_at, name, payload FROM events
WHERE hashtextextended(resource_id, 0) = hashtextextended($1, 0)
  AND resource_id = $1 AND name IN ($2, $3)
ORDER BY position DESC LIMIT $4
"""

FLOOR = """
SELECT xid::text::int8 AS xid, position FROM events
WHERE (xid, position) < ($1::int8::text::xid8, $2::int8)
ORDER BY events.xid DESC, position DESC OFFSET $3 LIMIT 1
"""

FLOOR_OF_RESOURCE = """
SELECT xid::text::int8 AS xid, position FROM events
WHERE hashtextextended(resource_id, 0) = hashtextextended($4, 0) AND resource_id = $4
  AND (xid, position) < ($1::int8::text::xid8, $2::int8)
ORDER BY position DESC OFFSET $3 LIMIT 1
"""

LINKS = """
SELECT id, follows, received_at, xid::text::int8 AS xid, position FROM events
WHERE id = ANY($1::uuid[])
"""


async def standing_of(conn: asyncpg.Connection, event_id: UUID) -> Standing | None:
    """None: it is not in the log (events_by_id, one probe a day)."""
    row = await conn.fetchrow(STANDING, event_id)
    return row and Standing(
        place=(row["xid"], row["position"]),
        is_evaluated=row["evaluated"],
        evaluated_until=row["evaluated_until"],
        held_until=row["held_until"],
    )


async def entries_of(conn: asyncpg.Connection, trigger_id: UUID, *, limit: int) -> Sequence[Entry]:
    """The newest changes of a trigger and its keys, in the log's order (events_by_resource)."""
    rows = await conn.fetch(ENTRIES, f"upshot.trigger.{trigger_id}", SAVED, KEY_FORGOTTEN, limit)
    entries = [
        Entry(
            place=(row["xid"], row["position"]),
            name=row["name"],
            received_at=row["received_at"],
            payload=row["payload"],
        )
        for row in rows
    ]
    return sorted(entries, key=lambda entry: entry.place)


async def floor_of(
    conn: asyncpg.Connection, *, before: Place, count: int, resource_id: str | None
) -> Place | None:
    """The place that has `count` events between it and `before`; None: there are fewer.

    By events_in_commit_order; those of one resource by events_by_resource.
    """
    if resource_id is None:
        row = await conn.fetchrow(FLOOR, *before, count)
    else:
        row = await conn.fetchrow(FLOOR_OF_RESOURCE, *before, count, resource_id)
    return row and (row["xid"], row["position"])


async def received_at(conn: asyncpg.Connection, place: Place) -> datetime | None:
    """When the event at this place was received (events_in_commit_order)."""
    at: datetime | None = await conn.fetchval(
        "SELECT received_at FROM events "
        "WHERE (xid, position) = ($1::int8::text::xid8, $2::int8) LIMIT 1",
        *place,
    )
    return at


async def links_of(conn: asyncpg.Connection, ids: Collection[UUID]) -> list[Link]:
    """These events as links of chains, those that are in the log (events_by_id)."""
    return [
        Link(
            id=row["id"],
            follows=row["follows"],
            received_at=row["received_at"],
            place=(row["xid"], row["position"]),
        )
        for row in await conn.fetch(LINKS, list(ids))
    ]
