"""Events in the order of the log from a place on, narrowed to what a client may want to see."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from upshot.core.events import OWN_EVENT_PREFIX, Event
from upshot.core.limits import BATCH_BYTES_MAX, OCCURRED_AHEAD_MAX, WRITE_DELAY_MAX
from upshot.storage.events import Place
from upshot.storage.log import Cursor, Row, event_of
from upshot.storage.replay import FROM_XID


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """What SQL can tell of the events that are wanted; what is empty asks nothing."""

    since: datetime | None = None
    until: datetime | None = None
    """Both by when an event occurred, and both included."""
    names: Collection[str] = ()
    prefixes: Collection[str] = ()
    not_names: Collection[str] = ()
    not_prefixes: Collection[str] = ()
    resource_ids: Collection[str] = ()
    resource_prefixes: Collection[str] = ()
    ids: Collection[UUID] = ()
    own: bool = False
    """Whether Upshot's own events are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """A part of the log, from its one end on: places up to `first` or down from it, both left out,
    and not behind `last`, which is included. None: the log's end."""

    ascending: bool
    first: Place | None
    last: Place | None
    is_cut: bool
    """There is more of the log behind `last`."""


@dataclass(frozen=True, slots=True)
class Found:
    """Events that SQL lets through, in their order, and where each stands."""

    events: list[tuple[Place, Event]]
    is_whole: bool
    """There are no more in the reach."""


_SHOWN = (
    "xid::text::int8 AS xid, position, received_at, occurred_at, id, follows, size, name, "
    "resource_id, labels::text AS labels, related::text AS related, payload::text AS payload"
)

# Of a transaction that had committed by the cursor, and is not behind what it has read.
_PASSED = (
    "(pg_visible_in_snapshot(xid, {0}::text::pg_snapshot)"
    " OR (pg_visible_in_snapshot(xid, {1}::text::pg_snapshot)"
    " AND (xid, position) <= ({2}::int8::text::xid8, {3}::int8)))"
)


async def reach(
    conn: asyncpg.Connection,
    narrowed: Narrowed,
    *,
    ascending: bool,
    first: Place | None,
    rows_max: int,
    ahead: timedelta = OCCURRED_AHEAD_MAX,
) -> Reach:
    """How far `rows_max` rows lead from a place (events_in_commit_order, events_by_resource).

    What was received more than `ahead` before `since` is taken not to have occurred since then.
    """
    oldest = await _begins_at(conn, narrowed, ahead=ahead)
    query = _Query(narrowed)
    begin = first or oldest if ascending else first
    bound = query.not_behind(None if ascending else oldest, ascending=ascending)
    row = await conn.fetchrow(
        f"SELECT xid::text::int8 AS xid, position FROM events "
        f"WHERE {query.resource()} AND {query.beyond(begin, ascending=ascending)} AND {bound} "
        f"ORDER BY {query.order(ascending=ascending)} OFFSET {rows_max - 1} LIMIT 1",
        *query.args,
    )
    last = (row["xid"], row["position"]) if row else None if ascending else oldest
    return Reach(ascending=ascending, first=begin, last=last, is_cut=row is not None)


async def newest(conn: asyncpg.Connection, narrowed: Narrowed, *, rows_max: int) -> Reach:
    """The newest rows, the oldest first, of what was received `since` then or shortly before."""
    down = await reach(
        conn,
        replace(narrowed, resource_ids=()),
        ascending=False,
        first=None,
        rows_max=rows_max,
        ahead=WRITE_DELAY_MAX,
    )
    return Reach(ascending=True, first=down.last, last=None, is_cut=down.is_cut)


async def _begins_at(
    conn: asyncpg.Connection, narrowed: Narrowed, *, ahead: timedelta
) -> Place | None:
    """Before all that was received `ahead` before `since`; None: at the log's beginning."""
    if narrowed.since is None:
        return None
    xid = await conn.fetchval(FROM_XID, narrowed.since - WRITE_DELAY_MAX - ahead)
    return None if xid is None else (xid, -1)


async def read(
    conn: asyncpg.Connection,
    narrowed: Narrowed,
    within: Reach,
    *,
    limit: int,
    bytes_max: int = BATCH_BYTES_MAX,
    passed: Cursor | None = None,
) -> Found:
    """The first events of a reach, of those that a cursor has passed if one is given."""
    query = _Query(narrowed)
    ascending = within.ascending
    rows = await conn.fetch(
        f"SELECT {_SHOWN} FROM ("
        "SELECT page.*, sum(size) OVER (ROWS UNBOUNDED PRECEDING) - size AS bytes_before FROM ("
        f"SELECT * FROM events WHERE {query.resource()}"
        f" AND {query.beyond(within.first, ascending=ascending)}"
        f" AND {query.not_behind(within.last, ascending=ascending)}"
        f" AND {query.passed(passed)} AND {query.rest()}"
        f" ORDER BY {query.order(ascending=ascending)} LIMIT {limit}"
        f") AS page) AS sized WHERE bytes_before < {bytes_max}",
        *query.args,
    )
    is_cut = len(rows) == limit or sum(row["size"] for row in rows) >= bytes_max
    return Found([_placed(row) for row in rows], is_whole=not is_cut)


async def load(conn: asyncpg.Connection, ids: Collection[UUID]) -> list[tuple[Place, Event]]:
    """Those of these events that are still in the log, in its order (events_by_id)."""
    rows = await conn.fetch(
        f"SELECT {_SHOWN} FROM events WHERE id = ANY($1::uuid[]) ORDER BY xid, position",
        list(ids),
    )
    return [_placed(row) for row in rows]


def _placed(row: Row) -> tuple[Place, Event]:
    return (row["xid"], row["position"]), event_of(row)


async def cursor_now(conn: asyncpg.Connection) -> Cursor:
    """A cursor that has passed all that is committed by now. It is nobody's but its holder's."""
    row = await conn.fetchrow("SELECT pg_current_snapshot()::text AS snapshot, now() AS now")
    return Cursor(
        cluster=0,
        snapshot=row["snapshot"],
        page=None,
        position=0,
        evaluated_until=row["now"],
        version=0,
    )


class _Query:
    """The conditions of a statement, and its arguments as they are needed."""

    def __init__(self, narrowed: Narrowed) -> None:
        self._narrowed = narrowed
        self.args: list[Any] = []
        # The index of a resource's events knows their positions only.
        self._by_resource = len(narrowed.resource_ids) == 1

    def resource(self) -> str:
        if not self._by_resource:
            return "true"
        given = self._given(next(iter(self._narrowed.resource_ids)))
        return (
            f"hashtextextended(resource_id, 0) = hashtextextended({given}::text, 0) "
            f"AND resource_id = {given}::text"
        )

    def order(self, *, ascending: bool) -> str:
        way = "ASC" if ascending else "DESC"
        return f"position {way}" if self._by_resource else f"xid {way}, position {way}"

    def beyond(self, place: Place | None, *, ascending: bool) -> str:
        return self._compared(place, ">" if ascending else "<")

    def not_behind(self, place: Place | None, *, ascending: bool) -> str:
        return self._compared(place, "<=" if ascending else ">=")

    def passed(self, cursor: Cursor | None) -> str:
        if cursor is None:
            return "true"
        page = cursor.page
        values = (
            cursor.snapshot,
            page and page.snapshot,
            page and page.xid,
            page and page.position,
        )
        return _PASSED.format(*map(self._given, values))

    def rest(self) -> str:
        narrowed = self._narrowed
        conditions = ["true"]
        if narrowed.since is not None:
            conditions.append(f"occurred_at >= {self._given(narrowed.since)}")
        if narrowed.until is not None:
            conditions.append(f"occurred_at <= {self._given(narrowed.until)}")
        if narrowed.names:
            conditions.append(f"name = ANY({self._given(list(narrowed.names))}::text[])")
        if narrowed.prefixes:
            conditions.append(f"name LIKE ANY({self._likes(narrowed.prefixes)}::text[])")
        if narrowed.not_names:
            conditions.append(f"name <> ALL({self._given(list(narrowed.not_names))}::text[])")
        if narrowed.not_prefixes:
            conditions.append(f"NOT name LIKE ANY({self._likes(narrowed.not_prefixes)}::text[])")
        if not narrowed.own:
            conditions.append(f"NOT name LIKE ANY({self._likes([OWN_EVENT_PREFIX])}::text[])")
        if narrowed.resource_ids and not self._by_resource:
            conditions.append(
                f"resource_id = ANY({self._given(list(narrowed.resource_ids))}::text[])"
            )
        if narrowed.resource_prefixes:
            conditions.append(
                f"resource_id LIKE ANY({self._likes(narrowed.resource_prefixes)}::text[])"
            )
        return " AND ".join(conditions)

    def _compared(self, place: Place | None, sign: str) -> str:
        if place is None:
            return "true"
        xid, position = place
        if self._by_resource and position >= 0:
            return f"position {sign} {self._given(position)}"
        return (
            f"(xid, position) {sign} "
            f"({self._given(xid)}::int8::text::xid8, {self._given(position)}::int8)"
        )

    def _likes(self, prefixes: Collection[str]) -> str:
        return self._given([f"{_literally(prefix)}%" for prefix in prefixes])

    def _given(self, value: Any) -> str:
        self.args.append(value)
        return f"${len(self.args)}"


def _literally(part: str) -> str:
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
