"""The log: events appended in batches and read in the order of their commits."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, Protocol
from uuid import UUID, uuid4

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.announcing import announced_end
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
_as_row = attrgetter(
    "occurred", "id", "follows", "size", "name", "resource_id", "labels_json", "related_json",
    "payload_json",
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
    await conn.copy_records_to_table("events", columns=_COLUMNS, records=map(_as_row, events))


async def append_ended(conn: asyncpg.Connection, runs: Iterable[EndedRun]) -> None:
    """Tell of runs that have ended, in the transaction that ends them.

    Raises:
        NoDay: there is no partition for today. The transaction is void.
    """
    await append_told(conn, [event for run in runs for event in _told_of(run)])


def _told_of(run: EndedRun) -> Iterator[NewEvent]:
    if run.state != "cancelled":
        yield ended_event(run, event_id=_new_id())
    action = announced_end(run, event_id=_new_id()) if run.action is not None else None
    if action is not None:
        yield action


def new_id() -> UUID:
    """For an event of the server's own; for the thread of the event loop alone."""
    return _new_id()


async def append_told(conn: asyncpg.Connection, events: Sequence[NewEvent]) -> None:
    """Append what the server tells, in the transaction of what it tells of.

    Raises:
        NoDay: there is no partition for today. The transaction is void.
    """
    if not events:
        return
    try:
        await append(conn, events)
    except asyncpg.CheckViolationError as error:
        raise NoDay("The log has no partition for today yet.") from error


async def append_one_ended(conn: AsyncConnection, run: EndedRun) -> None:
    """Tell of a run that has ended, in the transaction that ends it."""
    await append_few(conn, list(_told_of(run)))


async def append_few(conn: AsyncConnection, events: Sequence[NewEvent]) -> None:
    """Append some events of the server's own, in the transaction of what they tell of."""
    if events:
        await conn.execute(
            text(
                "INSERT INTO events "
                "(occurred_at, id, size, name, resource_id, labels, related, payload) VALUES "
                "(:occurred_at, :id, :size, :name, :resource_id, :labels, :related, :payload)"
            ),
            [
                {
                    "occurred_at": event.occurred,
                    "id": event.id,
                    "size": event.size,
                    "name": event.name,
                    "resource_id": event.resource_id,
                    "labels": event.labels_json,
                    "related": event.related_json,
                    "payload": event.payload_json,
                }
                for event in events
            ],
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


READER_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}
"""For connections that read the log: one plan, by the indexes, for every poll. One made while a day
was empty is used when it is full, and making one takes longer than reading what is new."""

# The rows whose transaction had ended in the new snapshot and not in the cursor's, in the order
# of (xid, position). Two ordered index ranges of events_in_commit_order: transactions that were
# under way in the old snapshot, then those that began after it. From its xmin instead, every poll
# would read again all since the oldest open transaction of the cluster. Each range has one lower
# bound: of two, Postgres may begin at the lower one, and read the whole index. Of the rows that
# nobody wants only the last is sent, with what is known of the whole page.
READ_BATCH = """
WITH snapshots AS MATERIALIZED (
    SELECT $1::text::pg_snapshot AS old, $2::text::pg_snapshot AS new,
           $3::int8::text::xid8 AS xid, $4::int8 AS position
), bounds AS MATERIALIZED (
    SELECT old, new, pg_snapshot_xmax(new) AS until_xid,
           greatest(xid, pg_snapshot_xmax(old)) AS from_xid,
           CASE WHEN xid >= pg_snapshot_xmax(old) THEN position ELSE -1 END AS from_position
      FROM snapshots
), page AS (
    (SELECT * FROM events
      WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(old) FROM bounds))
        AND (xid, position) > ($3::int8::text::xid8, $4::int8)
        AND pg_visible_in_snapshot(xid, (SELECT new FROM bounds))
      ORDER BY xid, position LIMIT $5)
    UNION ALL
    (SELECT * FROM events
      WHERE (xid, position) > ((SELECT from_xid FROM bounds), (SELECT from_position FROM bounds))
        AND xid < (SELECT until_xid FROM bounds)
        AND pg_visible_in_snapshot(xid, (SELECT new FROM bounds))
      ORDER BY xid, position LIMIT $5)
    LIMIT $5
), counted AS (
    SELECT page.*, row_number() OVER so_far AS rows, sum(size) OVER so_far AS bytes,
           max(position) OVER so_far AS highest
      FROM page WINDOW so_far AS (ROWS UNBOUNDED PRECEDING)
), cut AS (
    SELECT counted.*, coalesce(lead(bytes - size) OVER (), $6) >= $6 AS is_last
      FROM counted
)
SELECT xid::text::int8 AS xid, position, received_at, occurred_at, id, follows, size, name,
       resource_id, labels, related, payload, is_last,
       CASE WHEN is_last THEN rows END AS rows, CASE WHEN is_last THEN bytes END AS bytes,
       CASE WHEN is_last THEN highest END AS highest
  FROM cut
 WHERE bytes - size < $6
   AND (is_last OR $7::text[] IS NULL OR name IN (SELECT unnest($7::text[]))
        OR follows IS NOT NULL OR name ^@ 'upshot.trigger.' OR name ^@ 'upshot.key.')
"""


async def read_batch(
    conn: asyncpg.Connection,
    cursor: Cursor,
    *,
    events_max: int,
    bytes_max: int,
    names: Sequence[str] | None = None,
    is_wanted: Callable[[str], bool] = lambda _: True,
    is_followed: Callable[[UUID], bool] = lambda _: False,
) -> Batch:
    """The next events after the cursor, at most so many; none when all is evaluated.

    A change of a trigger or a key is always wanted, and so is everything behind one: it may be what
    makes it wanted; so is every event that follows another, or is followed. `names`: the only ones
    that may be wanted, where they are few. Nothing is skipped because an earlier transaction
    committed later, and no open transaction of anybody else holds the reading up.
    """
    if cursor.page is not None:
        snapshot, xid, position = cursor.page.snapshot, cursor.page.xid, cursor.page.position
        now = cursor.evaluated_until
    else:
        head = await conn.fetchrow("SELECT pg_current_snapshot()::text AS snapshot, now() AS now")
        snapshot, xid, position, now = head["snapshot"], 0, 0, head["now"]
    where = (cursor.snapshot, snapshot, xid, position, events_max, bytes_max)
    rows = await conn.fetch(READ_BATCH, *where, names)
    if names is not None and any(
        row["follows"] is not None or row["name"].startswith(_CHANGES) for row in rows
    ):
        rows = await conn.fetch(READ_BATCH, *where, None)
    if not rows:
        return Batch(events=[], size=0, after=_moved(cursor, snapshot, now))
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
    last = rows[-1]
    is_cut = last["rows"] == events_max or last["bytes"] >= bytes_max
    after = _moved(cursor, snapshot, now, highest=last["highest"])
    if is_cut:
        after = replace(
            after,
            snapshot=cursor.snapshot,
            page=Page(snapshot, last["xid"], last["position"]),
            evaluated_until=max(cursor.evaluated_until, last["received_at"]),
        )
    return Batch(events=events, size=last["rows"], after=after)


def _moved(cursor: Cursor, snapshot: str, now: datetime, *, highest: int = 0) -> Cursor:
    return Cursor(
        cluster=cursor.cluster,
        snapshot=snapshot,
        page=None,
        position=max(cursor.position, highest),
        evaluated_until=now,
        version=cursor.version + 1,
    )


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
