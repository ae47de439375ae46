"""The log read again: the events of a span of time in their order, page by page."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from upshot.core.events import Event
from upshot.core.limits import BATCH_BYTES_MAX, WRITE_DELAY_MAX
from upshot.core.patterns import Pattern
from upshot.core.triggers import Trigger
from upshot.storage.events import Place
from upshot.storage.log import event_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of time by receipt, `until` excluded, and the transactions that it is read from."""

    since: datetime
    until: datetime
    xid_from: int
    xid_until: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some of a span's events, in the order of the log.

    Every row has `xid`, `position`, `received_at`, `id`, `follows` and `wanted`; where that is true
    it has all that `event_of` needs. `number` counts the stretch's events up to the row, with those
    that are left out, and `reached_at` is when the latest of them was received, where that is not
    the row's own.
    """

    rows: Sequence[asyncpg.Record]
    after: Place | None
    """Where to go on; None: the span is at its end."""

    def events(self) -> Iterator[Event]:
        """Those that are wanted."""
        return (event_of(row) for row in self.rows if row["wanted"])


# Transactions' numbers grow with time, and there is no index of their time. So the numbers are
# halved until the first is found for which $1 is not later than what a probe finds there.
# A cast is called by its column's name: a bare `ORDER BY xid` would sort the whole log by it.
_HALVED = """
WITH RECURSIVE halved (low, high) AS (
    SELECT (SELECT xid::text::int8 FROM events ORDER BY events.xid, position LIMIT 1),
           (SELECT xid::text::int8 + 1 FROM events ORDER BY events.xid DESC, position DESC LIMIT 1)
    UNION ALL
    SELECT CASE WHEN is_before THEN middle + 1 ELSE low END,
           CASE WHEN is_before THEN high ELSE middle END
    FROM halved
    CROSS JOIN LATERAL (SELECT (low + high) / 2) AS halves (middle)
    CROSS JOIN LATERAL ({probe}) AS probed (is_before)
    WHERE low < high
)
SELECT low FROM halved WHERE low = high
"""

# A rebase gives one number to many rows: the last of them says that all are before, the first that
# none is.
FROM_XID = _HALVED.format(
    probe="SELECT received_at < $1 FROM events WHERE xid <= middle::text::xid8 "
    "ORDER BY xid DESC, position DESC LIMIT 1"
)
UNTIL_XID = _HALVED.format(
    probe="SELECT received_at < $1 FROM events WHERE xid >= middle::text::xid8 "
    "ORDER BY xid, position LIMIT 1"
)

# One pass over the page: several would copy its rows each time. What comes behind one that follows
# another may be waited for.
_SHOWN = """
SELECT xid::text::int8 AS xid, position, number, number = $8 OR bytes >= $5 AS is_cut,
       received_at, nullif(reached_at, received_at) AS reached_at, id, follows, wanted,
       CASE WHEN wanted THEN occurred_at END AS occurred_at,
       CASE WHEN wanted THEN name END AS name,
       CASE WHEN wanted THEN resource_id END AS resource_id,
       CASE WHEN wanted THEN labels END AS labels,
       CASE WHEN wanted THEN related END AS related,
       CASE WHEN wanted THEN payload END AS payload
FROM (
    SELECT page.*, CASE WHEN wanted THEN size ELSE 0 END AS weight,
           row_number() OVER so_far AS number,
           sum(CASE WHEN wanted THEN size ELSE 0 END) OVER so_far AS bytes,
           max(received_at) OVER so_far AS reached_at,
           count(follows) OVER so_far AS following,
           lead(false, 1, true) OVER so_far AS is_last
    FROM page WINDOW so_far AS (ROWS UNBOUNDED PRECEDING)
) AS sized
WHERE bytes - weight < $5
  AND (wanted OR following > 0 OR is_last OR $10)
"""

_WANTED = "(name = ANY ($6::text[]) OR name LIKE ANY ($7::text[])) AS wanted"

READ = f"""
WITH page AS (
    SELECT *, {_WANTED} FROM events
    WHERE received_at >= $1 AND received_at < $2
      AND (xid, position) > ($3::int8::text::xid8, $4::int8)
      AND xid < $9::int8::text::xid8
    ORDER BY xid, position LIMIT $8
)
{_SHOWN}
"""

# All places of the resources are read for each page, since their index is not in the log's order;
# what stands there only for the page.
READ_OF_RESOURCES = f"""
WITH places AS MATERIALIZED (
    SELECT received_at, xid, position FROM events
    WHERE hashtextextended(resource_id, 0)
            = ANY (ARRAY(SELECT hashtextextended(asked, 0) FROM unnest($9::text[]) AS asked))
      AND resource_id = ANY ($9::text[])
      AND received_at >= $1 AND received_at < $2
), next AS MATERIALIZED (
    SELECT * FROM places WHERE (xid, position) > ($3::int8::text::xid8, $4::int8)
    ORDER BY xid, position LIMIT $8
), page AS (
    SELECT events.*, {_WANTED} FROM next JOIN events USING (received_at, xid, position)
    ORDER BY xid, position
)
{_SHOWN}
"""


async def span_of(conn: asyncpg.Connection, *, since: datetime, until: datetime) -> Span:
    """Find where a span lies in the log (events_in_commit_order, some thirty probes an end).

    An event was received when its transaction began, which may have got its number, and with that
    its place, up to WRITE_DELAY_MAX later. What is written from now on is not of the span.
    """
    xid_from = await conn.fetchval(FROM_XID, since - WRITE_DELAY_MAX)
    xid_until = await conn.fetchval(UNTIL_XID, until + WRITE_DELAY_MAX)
    return Span(since=since, until=until, xid_from=xid_from or 0, xid_until=xid_until or 0)


async def read(
    conn: asyncpg.Connection,
    span: Span,
    *,
    after: Place | None,
    limit: int,
    names: Sequence[Pattern] | None = None,
    bytes_max: int = BATCH_BYTES_MAX,
    is_whole: bool = True,
) -> Stretch:
    """The next `limit` events of a span at most (events_in_commit_order).

    An event is wanted if one of `names` matches its name, or whatever it is called. Others may be
    left out of a stretch that need not be whole, up to the first event that follows another; the
    last is there.
    """
    xid, position = after or (span.xid_from, 0)
    rows = await conn.fetch(
        READ,
        span.since,
        span.until,
        xid,
        position,
        bytes_max,
        *_names(names),
        limit,
        span.xid_until,
        is_whole,
    )
    return _stretch(rows)


async def read_of_resources(
    conn: asyncpg.Connection,
    resource_ids: Collection[str],
    *,
    since: datetime,
    until: datetime,
    after: Place | None,
    limit: int,
    names: Sequence[Pattern] | None = None,
    bytes_max: int = BATCH_BYTES_MAX,
) -> Stretch:
    """As `read`, only of events of these resources (events_by_resource)."""
    xid, position = after or (0, 0)
    rows = await conn.fetch(
        READ_OF_RESOURCES,
        since,
        until,
        xid,
        position,
        bytes_max,
        *_names(names),
        limit,
        list(resource_ids),
        True,
    )
    return _stretch(rows)


def names_wanted(triggers: Iterable[Trigger]) -> tuple[Pattern, ...] | None:
    """Patterns of all names that could concern a trigger, and maybe some more. None: any could."""
    found: dict[str, Pattern] = {}
    for trigger in triggers:
        for _, condition in trigger.leaves:
            for patterns in (condition.selection.expect, condition.selection.after):
                if patterns is None:
                    continue
                if not patterns.positive:
                    return None
                found.update((pattern.text, pattern) for pattern in patterns.positive)
    return tuple(found.values())


async def places_of(conn: asyncpg.Connection, ids: Collection[UUID]) -> dict[UUID, Place]:
    """Where these events stand in the log, those that are there (events_by_id)."""
    rows = await conn.fetch(
        "SELECT id, xid::text::int8 AS xid, position FROM events WHERE id = ANY($1::uuid[]) "
        "ORDER BY xid DESC, position DESC",
        list(ids),
    )
    return {row["id"]: (row["xid"], row["position"]) for row in rows}


async def first_received_at(conn: asyncpg.Connection) -> datetime | None:
    """When the log's first event was received; None: it is empty (events_in_commit_order)."""
    at: datetime | None = await conn.fetchval(
        "SELECT received_at FROM events ORDER BY xid, position LIMIT 1"
    )
    return at


def _names(names: Sequence[Pattern] | None) -> tuple[list[str], list[str]]:
    """Literal names, and patterns as LIKE has them."""
    if names is None:
        return [], ["%"]
    literal = [pattern.text for pattern in names if pattern.is_literal]
    like = ["%".join(map(_literally, p.parts)) for p in names if not p.is_literal]
    return literal, like


def _literally(part: str) -> str:
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _stretch(rows: Sequence[asyncpg.Record]) -> Stretch:
    if not rows or not rows[-1]["is_cut"]:
        return Stretch(rows, None)
    return Stretch(rows, (rows[-1]["xid"], rows[-1]["position"]))
