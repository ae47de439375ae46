"""Events as they are looked up and listed. The line itself reads them by `storage.log`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    RowMapping,
    Text,
    and_,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.events import OWN_EVENT_PREFIX, Event
from upshot.core.limits import ROWS_SCANNED_MAX
from upshot.core.patterns import Pattern, Patterns
from upshot.storage.log import event_of
from upshot.storage.schema import Xid8, evaluation_errors, events

Place = tuple[int, int]
"""An event's place in the log: its transaction, and its position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What a list is narrowed to; by time of receipt, `until` excluded."""

    names: Patterns | None = None
    resource: Pattern | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, newest first, and where to go on; None: there are no more."""

    events: list[Event]
    before: Place | None


@dataclass(frozen=True, slots=True)
class EvaluationError:
    """Why an event was set aside for a trigger (None: for all of them)."""

    trigger: str | None
    error: str


_xid = cast(cast(events.c.xid, Text), BigInteger).label("xid")
_shown: tuple[Any, ...] = (
    _xid,
    events.c.position,
    events.c.received_at,
    events.c.occurred_at,
    events.c.id,
    events.c.follows,
    events.c.name,
    events.c.resource_id,
    cast(events.c.labels, Text).label("labels"),
    cast(events.c.related, Text).label("related"),
    cast(events.c.payload, Text).label("payload"),
)
_place = tuple_(events.c.xid, events.c.position)
_own = events.c.name.startswith(OWN_EVENT_PREFIX, autoescape=True)


async def load(conn: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, Event]:
    """Those of these events that are still in the log (events_by_id)."""
    rows = await conn.execute(select(*_shown).where(events.c.id.in_(ids)))
    return {row["id"]: event_of(dict(row)) for row in rows.mappings()}


async def errors_of(conn: AsyncConnection, event_id: UUID, *, limit: int) -> list[EvaluationError]:
    """For which triggers this event was set aside (evaluation_errors_by_event)."""
    rows = await conn.execute(
        select(evaluation_errors.c.trigger, evaluation_errors.c.error)
        .where(evaluation_errors.c.event_id == event_id)
        .order_by(evaluation_errors.c.at)
        .limit(limit)
    )
    return [EvaluationError(row.trigger, row.error) for row in rows]


async def page(
    conn: AsyncConnection,
    wanted: EventFilter,
    *,
    before: Place | None,
    limit: int,
    scan_max: int = ROWS_SCANNED_MAX,
) -> EventPage:
    """Events, newest first, looking through at most `scan_max` of them.

    In the order of commits (events_in_commit_order); those of one resource in the order of
    positions (events_by_resource).
    """
    by_resource = wanted.resource is not None and wanted.resource.is_literal
    order = [events.c.position.desc()] if by_resource else [
        events.c.xid.desc(), events.c.position.desc()
    ]  # fmt: skip
    conditions = _of_days(wanted)
    if by_resource:
        conditions += _of_resource(wanted.resource)
    if before is not None:
        conditions.append(_below(before, by_resource=by_resource))
    floor = None
    if wanted != EventFilter():
        floor = await _floor(conn, conditions, order, scan_max)
    if floor is not None:
        conditions.append(~_below(floor, by_resource=by_resource))
    rows = await conn.execute(
        select(*_shown)
        .where(*conditions, *_of_resource(wanted.resource), *_of_names(wanted.names))
        .where(*_of_times(wanted))
        .order_by(*order)
        .limit(limit + 1)
    )
    found = rows.mappings().all()
    shown = [event_of(dict(row)) for row in found[:limit]]
    return EventPage(shown, _place_of(found[limit - 1]) if len(found) > limit else floor)


def _place_of(row: RowMapping) -> Place:
    return row["xid"], row["position"]


def _below(place: Place, *, by_resource: bool) -> ColumnElement[bool]:
    xid, position = place
    if by_resource:
        return events.c.position < position
    bound = cast(cast(literal(xid, BigInteger), Text), Xid8)
    return _place < tuple_(bound, literal(position, BigInteger))


async def _floor(
    conn: AsyncConnection,
    conditions: Sequence[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]],
    scan_max: int,
) -> Place | None:
    """The place of the last row to be looked at; None: there are fewer."""
    row = (
        await conn.execute(
            select(_xid, events.c.position)
            .where(*conditions)
            .order_by(*order)
            .offset(scan_max - 1)
            .limit(1)
        )
    ).one_or_none()
    return row and (row.xid, row.position)


def _of_days(wanted: EventFilter) -> list[ColumnElement[bool]]:
    """Whole days, as the partitions are cut: they leave partitions out, and no row inside one."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        conditions.append(events.c.received_at >= _midnight(wanted.since))
    if wanted.until is not None:
        last = _midnight(wanted.until)
        if last < datetime.max.replace(tzinfo=UTC) - timedelta(days=2):
            conditions.append(events.c.received_at < last + timedelta(days=1))
    return conditions


def _midnight(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _of_times(wanted: EventFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        conditions.append(events.c.received_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(events.c.received_at < wanted.until)
    return conditions


def _of_resource(resource: Pattern | None) -> list[ColumnElement[bool]]:
    if resource is None:
        return []
    if not resource.is_literal:
        return [_matches(events.c.resource_id, resource)]
    return [
        func.hashtextextended(events.c.resource_id, literal_column("0", Integer))
        == func.hashtextextended(resource.text, literal_column("0", Integer)),
        events.c.resource_id == resource.text,
    ]


def _of_names(names: Patterns | None) -> list[ColumnElement[bool]]:
    """As `Patterns.matches_name`: Upshot's own events need a pattern that begins with `upshot.`."""
    if names is None:
        return []
    wanted = [
        _matches(events.c.name, pattern)
        if pattern.text.startswith(OWN_EVENT_PREFIX)
        else and_(_matches(events.c.name, pattern), ~_own)
        for pattern in names.positive
    ]
    excluded = [~_matches(events.c.name, pattern) for pattern in names.negative]
    return [or_(*wanted) if wanted else ~_own, *excluded]


def _matches(column: ColumnElement[str], pattern: Pattern) -> ColumnElement[bool]:
    if pattern.is_literal:
        return column == pattern.text
    return column.like("%".join(map(_literally, pattern.parts)), escape="\\")


def _literally(part: str) -> str:
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
