"""The log: events appended in batches and read in the order of their commits."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.errors import Overloaded, UpshotError
from upshot.core.events import RESOURCE_ID, RESOURCE_NAME, Event, Labels
from upshot.core.intake import Ids, NewEvent
from upshot.core.lifecycle import EndedRun, ended_event

EVALUATE = "evaluate"
"""The evaluator's cursor."""

EVALUATING = 0x7570_6576
"""The advisory lock of the evaluator at work: "upev"."""

_CHANGES = ("upshot.trigger.", "upshot.key.")
"""How the names of entries begin that change what the evaluator wants."""

_COLUMNS = (
    "occurred_at", "id", "follows", "size", "name", "resource_id", "labels", "related", "payload",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """Where the reading of one pair of snapshots has got to: the last row's (xid, position)."""

    snapshot: str
    xid: int
    position: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the log is evaluated: everything in `snapshot`, and `page` of the next one."""

    cluster: int
    snapshot: str
    page: Page | None
    position: int
    evaluated_until: datetime
    version: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in the order of the log, and the cursor that says they are evaluated.

    `size` of them were read; those that nobody wants are left out.
    """

    events: list[Event]
    size: int
    after: Cursor


class Row(Protocol):
    """A row by column name, asyncpg's or SQLAlchemy's."""

    def __getitem__(self, column: str, /) -> Any: ...


class ClusterChanged(UpshotError):
    """The cursor belongs to another cluster: transaction ids mean nothing here."""


class NoDay(Overloaded):
    """The log has no partition for today yet. Nobody's row is at fault, and one will be made."""


# Of the event loop's thread, the only one that appends.
_new_id = Ids(random=os.urandom, clock=time.time_ns)
_label_decoder = msgspec.json.Decoder(dict[str, str])
_related_decoder = msgspec.json.Decoder(list[dict[str, str]])


async def append(conn: asyncpg.Connection, events: Iterable[NewEvent]) -> None:
    """COPY events into the log. Position, transaction and time of receipt are the database's."""
    await conn.copy_records_to_table(
        "events",
        columns=_COLUMNS,
        records=[
            (
                event.occurred,
                event.id,
                event.follows,
                event.size,
                event.name,
                event.resource_id,
                event.labels_json,
                event.related_json,
                event.payload_json,
            )
            for event in events
        ],
    )


async def append_ended(conn: asyncpg.Connection, runs: Iterable[EndedRun]) -> None:
    """Tell of runs that have ended, in the transaction that ends them.

    Raises:
        NoDay: there is no partition for today. The transaction is void.
    """
    events = [ended_event(run, event_id=_new_id()) for run in runs]
    if not events:
        return
    try:
        await append(conn, events)
    except asyncpg.CheckViolationError as error:
        raise NoDay("The log has no partition for today yet.") from error


async def append_one_ended(conn: AsyncConnection, run: EndedRun) -> None:
    """Tell of a run that has ended, in the transaction that ends it."""
    event = ended_event(run, event_id=_new_id())
    await conn.execute(
        text(
            "INSERT INTO events "
            "(occurred_at, id, size, name, resource_id, labels, related, payload) VALUES "
            "(:occurred_at, :id, :size, :name, :resource_id, :labels, :related, :payload)"
        ),
        {
            "occurred_at": event.occurred,
            "id": event.id,
            "size": event.size,
            "name": event.name,
            "resource_id": event.resource_id,
            "labels": event.labels_json,
            "related": event.related_json,
            "payload": event.payload_json,
        },
    )


async def append_own(
    conn: AsyncConnection, *, name: str, resource_id: str, resource_name: str, payload: Any
) -> UUID:
    """Append an event of Upshot's own, in the transaction of what it tells of; answers its id."""
    event_id, payload_json = uuid4(), json.dumps(payload)
    await conn.execute(
        text(
            "INSERT INTO events (occurred_at, id, size, name, resource_id, labels, payload) "
            "VALUES (now(), :id, :size, :name, :resource_id, :labels, :payload)"
        ),
        {
            "id": event_id,
            "size": len(payload_json),
            "name": name,
            "resource_id": resource_id,
            "labels": json.dumps({RESOURCE_NAME: resource_name}),
            "payload": payload_json,
        },
    )
    return event_id


async def load_cursor(conn: asyncpg.Connection, name: str) -> Cursor:
    """The named cursor, made at the log's beginning if there is none.

    Raises:
        ClusterChanged: the database was restored into another cluster.
    """
    await conn.execute(
        "INSERT INTO cursors (name, cluster, snapshot, position, evaluated_until, version) "
        "SELECT $1, system_identifier, '3:3:', 0, 'epoch', 0 FROM pg_control_system() "
        "ON CONFLICT DO NOTHING",
        name,
    )
    row = await conn.fetchrow(
        "SELECT cluster, snapshot::text, page_snapshot::text, page_xid::text::int8 AS page_xid, "
        "page_position, position, evaluated_until, version, "
        "(SELECT system_identifier FROM pg_control_system()) AS here FROM cursors WHERE name = $1",
        name,
    )
    if row["cluster"] != row["here"]:
        raise ClusterChanged(
            "This database was evaluated in another Postgres cluster and then moved here (a dump "
            "and restore, or an upgrade). Transaction ids began anew; run 'upshot rebase' once, "
            "while no server is running, and start again."
        )
    page = None
    if row["page_snapshot"] is not None:
        page = Page(row["page_snapshot"], row["page_xid"], row["page_position"])
    return Cursor(
        cluster=row["cluster"],
        snapshot=row["snapshot"],
        page=page,
        position=row["position"],
        evaluated_until=row["evaluated_until"],
        version=row["version"],
    )


async def save_cursor(conn: asyncpg.Connection, name: str, cursor: Cursor) -> bool:
    """Move the cursor on from the version before; False when somebody else has moved it."""
    page = cursor.page
    moved = await conn.execute(
        "UPDATE cursors SET snapshot = $2::text::pg_snapshot, "
        "page_snapshot = $3::text::pg_snapshot, page_xid = $4::int8::text::xid8, "
        "page_position = $5, position = $6, evaluated_until = $7, version = $8 "
        "WHERE name = $1 AND version = $8 - 1",
        name,
        cursor.snapshot,
        page and page.snapshot,
        page and page.xid,
        page and page.position,
        cursor.position,
        cursor.evaluated_until,
        cursor.version,
    )
    return str(moved) == "UPDATE 1"


READER_SETTINGS = {"enable_seqscan": "off", "enable_bitmapscan": "off"}
"""For connections that read the log: a plan made while a day was empty is used when it is full."""

# The rows whose transaction had ended in the new snapshot and not in the cursor's, in the order
# of (xid, position). Two ordered index ranges of events_in_commit_order: transactions that were
# under way in the old snapshot, then those that began after it. From its xmin instead, every poll
# would read again all since the oldest open transaction of the cluster.
READ_BATCH = """
WITH bounds AS MATERIALIZED (
    SELECT $1::text::pg_snapshot AS old, $2::text::pg_snapshot AS new
), page AS (
    (SELECT * FROM events
      WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(old) FROM bounds))
        AND (xid, position) > ($3::int8::text::xid8, $4::int8)
        AND pg_visible_in_snapshot(xid, (SELECT new FROM bounds))
      ORDER BY xid, position LIMIT $5)
    UNION ALL
    (SELECT * FROM events
      WHERE xid >= (SELECT pg_snapshot_xmax(old) FROM bounds)
        AND xid < (SELECT pg_snapshot_xmax(new) FROM bounds)
        AND (xid, position) > ($3::int8::text::xid8, $4::int8)
        AND pg_visible_in_snapshot(xid, (SELECT new FROM bounds))
      ORDER BY xid, position LIMIT $5)
    LIMIT $5
)
SELECT xid::text::int8 AS xid, position, received_at, occurred_at, id, follows, size, name,
       resource_id, labels, related, payload
FROM (
    SELECT page.*, sum(size) OVER (ROWS UNBOUNDED PRECEDING) - size AS bytes_before FROM page
) AS sized
WHERE bytes_before < $6
"""


async def read_batch(
    conn: asyncpg.Connection,
    cursor: Cursor,
    *,
    events_max: int,
    bytes_max: int,
    is_wanted: Callable[[str], bool] = lambda _: True,
    is_followed: Callable[[UUID], bool] = lambda _: False,
) -> Batch:
    """The next events after the cursor, at most so many; none when all is evaluated.

    A change of a trigger or a key is always wanted, and so is everything behind one: it may be what
    makes it wanted; so is every event that follows another, or is followed. Nothing is skipped
    because an earlier transaction committed later, and no open transaction of anybody else holds
    the reading up.
    """
    if cursor.page is not None:
        snapshot, xid, position = cursor.page.snapshot, cursor.page.xid, cursor.page.position
        now = cursor.evaluated_until
    else:
        head = await conn.fetchrow("SELECT pg_current_snapshot()::text AS snapshot, now() AS now")
        snapshot, xid, position, now = head["snapshot"], 0, 0, head["now"]
    rows = await conn.fetch(
        READ_BATCH, cursor.snapshot, snapshot, xid, position, events_max, bytes_max
    )
    events = []
    is_any_wanted = False
    followed = {row["follows"] for row in rows}
    for row in rows:
        name = row["name"]
        is_any_wanted = is_any_wanted or name.startswith(_CHANGES)
        if (
            is_any_wanted
            or is_wanted(name)
            or row["follows"] is not None
            or row["id"] in followed
            or is_followed(row["id"])
        ):
            events.append(event_of(row))
    is_cut = len(rows) == events_max or sum(row["size"] for row in rows) >= bytes_max
    after = Cursor(
        cluster=cursor.cluster,
        snapshot=cursor.snapshot if is_cut else snapshot,
        page=Page(snapshot, rows[-1]["xid"], rows[-1]["position"]) if is_cut else None,
        position=max([cursor.position, *(row["position"] for row in rows)]),
        evaluated_until=max(cursor.evaluated_until, rows[-1]["received_at"]) if is_cut else now,
        version=cursor.version + 1,
    )
    return Batch(events=events, size=len(rows), after=after)


def event_of(row: Row) -> Event:
    """The event of a row of the log."""
    resource: Labels = {RESOURCE_ID: row["resource_id"]}
    if row["labels"] is not None:
        resource = {**resource, **_label_decoder.decode(row["labels"])}
    related = () if row["related"] is None else tuple(_related_decoder.decode(row["related"]))
    return Event(
        id=row["id"],
        name=row["name"],
        resource=resource,
        related=related,
        payload=row["payload"] or "{}",
        occurred_at=row["occurred_at"],
        received_at=row["received_at"],
        follows=row["follows"],
    )


LOAD = """
SELECT received_at, occurred_at, id, follows, name, resource_id, labels, related, payload
FROM events WHERE id = ANY($1::uuid[])
"""


async def load(conn: asyncpg.Connection, ids: Iterable[UUID]) -> dict[UUID, Event]:
    """Those of these events that are still in the log (events_by_id, one probe a day)."""
    return {row["id"]: event_of(row) for row in await conn.fetch(LOAD, list(ids))}


EVALUATED = """
SELECT e.id FROM events AS e WHERE e.id = ANY($1::uuid[]) AND (
    pg_visible_in_snapshot(e.xid, $2::text::pg_snapshot)
    OR (pg_visible_in_snapshot(e.xid, $3::text::pg_snapshot)
        AND (e.xid, e.position) <= ($4::int8::text::xid8, $5::int8)))
"""


async def evaluated_before(
    conn: asyncpg.Connection, cursor: Cursor, ids: Iterable[UUID]
) -> set[UUID]:
    """Those of these events that the cursor has passed (events_by_id, one probe a day)."""
    page = cursor.page
    rows = await conn.fetch(
        EVALUATED,
        list(ids),
        cursor.snapshot,
        page and page.snapshot,
        page and page.xid,
        page and page.position,
    )
    return {row["id"] for row in rows}


async def are_evaluated(conn: AsyncConnection, ids: Iterable[UUID]) -> bool:
    """Whether the evaluator has passed all of these events (events_by_id, one probe a day)."""
    return bool(
        await conn.scalar(
            text(
                "SELECT coalesce(bool_and(coalesce(pg_visible_in_snapshot(e.xid, c.snapshot) OR ("
                "pg_visible_in_snapshot(e.xid, c.page_snapshot) "
                "AND (e.xid, e.position) <= (c.page_xid, c.page_position)), false)), true) "
                "FROM events AS e LEFT JOIN cursors AS c ON c.name = :name "
                "WHERE e.id = ANY(:ids)"
            ),
            {"name": EVALUATE, "ids": list(ids)},
        )
    )
