"""The open keys of a trigger as they are listed. The line itself reads them by `windows`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    DateTime,
    Select,
    SmallInteger,
    Text,
    Uuid,
    any_,
    case,
    cast,
    column,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from upshot.core.limits import KEYS_BYTES_READ_MAX, NODES_MAX, ROWS_SCANNED_MAX
from upshot.core.patterns import Pattern
from upshot.storage.schema import triggers_in_force, windows

Sort = Literal["age", "deadline"]

Columns = ReadOnlyColumnCollection[str, Any]

Place = tuple[datetime, int, UUID]
"""A key's place in a list: the time it is sorted by, its node, its hash."""


@dataclass(frozen=True, slots=True)
class InForce:
    """A trigger as the evaluator goes by it, which its windows belong to."""

    version: int
    document: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """What a list is narrowed to: one key by its hash, or those with a value like this."""

    hash: UUID | None = None
    value: Pattern | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenKey:
    """What is open for a key at one node; `state` is what the core encoded, `key` a JSON array."""

    node: int
    key: str
    started_at: datetime
    deadline_at: datetime | None
    state: str
    place: Place


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Open keys in their order, and where to go on; None: there are no more."""

    keys: list[OpenKey]
    after: Place | None


async def see_one_moment(conn: AsyncConnection) -> None:
    """Let all that this transaction reads be of one moment. Comes before it reads anything."""
    await conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


async def in_force(conn: AsyncConnection, trigger_id: UUID) -> InForce | None:
    """None: the evaluator has not come to the trigger's registration yet."""
    row = (
        await conn.execute(
            select(triggers_in_force.c.version, triggers_in_force.c.document).where(
                triggers_in_force.c.id == trigger_id
            )
        )
    ).one_or_none()
    return row and InForce(row.version, row.document)


async def is_open(conn: AsyncConnection, number: int, key_hash: UUID, *, now: datetime) -> bool:
    """Whether anything is open for a key, at any node (windows_pkey, one probe a node)."""
    conditions = [windows.c.trigger_number == number, *_of_key(key_hash), *_open(windows.c, now)]
    return bool(await conn.scalar(select(select(literal(1)).where(*conditions).exists())))


async def page(
    conn: AsyncConnection,
    number: int,
    wanted: KeyFilter,
    *,
    now: datetime,
    sort: Sort,
    after: Place | None,
    limit: int,
    scan_max: int = ROWS_SCANNED_MAX,
    bytes_max: int = KEYS_BYTES_READ_MAX,
) -> KeyPage:
    """Open keys, the oldest first (windows_by_age) or the next to end (windows_by_deadline).

    One by its hash is found by primary key (windows_pkey). Looks through at most `scan_max` keys,
    and reads states until they have `bytes_max`. By deadline, keys that have none are left out.
    """
    sorted_by = windows.c.started_at if sort == "age" else windows.c.deadline_at
    order = (sorted_by, windows.c.node, windows.c.key_hash)
    conditions = [windows.c.trigger_number == number, sorted_by.is_not(None), *_of_key(wanted.hash)]
    if sort == "deadline":
        conditions.append(sorted_by >= _first_deadline(number, now))
    if after is not None:
        conditions.append(tuple_(*order) > _values(after))
    in_order = select(windows, sorted_by.label("sorted_by")).where(*conditions).order_by(*order)
    looked_at = in_order.limit(scan_max).subquery("looked_at")
    found = (
        select(looked_at)
        .where(*_open(looked_at.c, now), *_with_value(looked_at.c.key, wanted.value))
        .limit(limit + 1)
    )
    rows = (await conn.execute(_read_until(found, bytes_max))).all()
    keys = [_open_key(row) for row in rows[:limit] if row.state is not None]
    if len(rows) > len(keys):
        return KeyPage(keys, keys[-1].place)
    return KeyPage(keys, await _last_looked_at(conn, conditions, order, scan_max))


async def _last_looked_at(
    conn: AsyncConnection,
    conditions: Sequence[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]],
    scan_max: int,
) -> Place | None:
    """None: all there are were looked at."""
    row = (
        await conn.execute(
            select(*order).where(*conditions).order_by(*order).offset(scan_max - 1).limit(1)
        )
    ).one_or_none()
    return row and (row[0], row[1], row[2])


def _first_deadline(number: int, now: datetime) -> ColumnElement[datetime]:
    """Before it all is over: the most overdue alarm's (windows_due), or else the present."""
    overdue = select(func.min(windows.c.deadline_at)).where(
        windows.c.trigger_number == number, windows.c.alarms, windows.c.deadline_at <= now
    )
    return func.coalesce(overdue.scalar_subquery(), literal(now, DateTime(timezone=True)))


def _of_key(key_hash: UUID | None) -> list[ColumnElement[bool]]:
    if key_hash is None:
        return []
    # Every node is named, so that each is a probe by primary key, and not all keys are read.
    nodes = literal(list(range(NODES_MAX + 1)), ARRAY(SmallInteger))
    return [windows.c.node == any_(nodes), windows.c.key_hash == key_hash]


def _values(place: Place) -> ColumnElement[Any]:
    at, node, key_hash = place
    return tuple_(
        literal(at, DateTime(timezone=True)), literal(node, SmallInteger), literal(key_hash, Uuid)
    )


def _open(of: Columns, now: datetime) -> list[ColumnElement[bool]]:
    """What is over stays for a while, to know late events by. An alarm is not over until given."""
    lasts = or_(of.deadline_at.is_(None), of.deadline_at > now, of.alarms)
    return [of.started_at.is_not(None), lasts]


def _with_value(key: ColumnElement[str], pattern: Pattern | None) -> list[ColumnElement[bool]]:
    if pattern is None:
        return []
    values = func.json_array_elements_text(cast(key, JSON)).table_valued(
        column("value", Text), name="parts"
    )
    like = "%".join(map(_literally, pattern.parts))
    matches = values.c.value.like(like, escape="\\")
    return [select(literal(1)).select_from(values).where(matches).exists()]


def _literally(part: str) -> str:
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _read_until(found: Select[Any], bytes_max: int) -> Select[Any]:
    """The rows found; those after so many bytes of states have none, and were not read."""
    rows = found.subquery("found")
    size = func.octet_length(rows.c.state)
    before = (func.sum(size).over(rows=(None, 0)) - size).label("bytes_before")
    sized = select(rows, before).subquery("sized").c
    return select(
        sized.sorted_by,
        sized.node,
        sized.key_hash,
        sized.key,
        sized.started_at,
        sized.deadline_at,
        case((sized.bytes_before < bytes_max, sized.state)).label("state"),
    )


def _open_key(row: Any) -> OpenKey:
    return OpenKey(
        node=row.node,
        key=row.key,
        started_at=row.started_at,
        deadline_at=row.deadline_at,
        state=row.state,
        place=(row.sorted_by, row.node, row.key_hash),
    )
