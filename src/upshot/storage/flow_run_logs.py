"""What flows print and log while they run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Row,
    SmallInteger,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    false,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.limits import ROWS_SCANNED_MAX
from upshot.storage.schema import flow_run_logs


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLine:
    """A line of a run's log."""

    run_id: UUID
    task_run_id: UUID | None
    at: datetime
    level: int
    name: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line(NewLine):
    """A line as it is stored; `number` rises in the order of arrival."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesWanted:
    """Which lines; None: does not matter. `either`: one of these is enough.

    Of the texts, which are looked for in the message and the logger's name whatever their case,
    a line must hold one of `texts`, if there are any, all of `texts_needed`, none of
    `texts_unwanted`.
    """

    run_ids: Sequence[UUID] | None = None
    task_run_ids: Sequence[UUID] | None = None
    level_min: int | None = None
    level_max: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    texts: Sequence[str] = field(default=())
    texts_needed: Sequence[str] = field(default=())
    texts_unwanted: Sequence[str] = field(default=())
    either: bool = False


async def append(conn: AsyncConnection, lines: Sequence[NewLine]) -> int:
    """Store lines in their order; answers how many. Those of runs that are not known are left."""
    stored = await conn.execute(
        text(
            "WITH sent AS (SELECT * FROM unnest(:run_ids, :task_run_ids, :at, :levels, :names, "
            ":messages) WITH ORDINALITY "
            "AS t (run_id, task_run_id, at, level, name, message, number)), "
            "known AS (SELECT id FROM runs WHERE id = ANY(:distinct_ids) FOR KEY SHARE) "
            "INSERT INTO flow_run_logs (run_id, task_run_id, at, level, name, message) "
            "SELECT run_id, task_run_id, at, level, name, message "
            "FROM sent JOIN known ON known.id = sent.run_id ORDER BY number"
        ).bindparams(
            bindparam("run_ids", type_=ARRAY(postgresql.UUID)),
            bindparam("task_run_ids", type_=ARRAY(postgresql.UUID)),
            bindparam("distinct_ids", type_=ARRAY(postgresql.UUID)),
            bindparam("at", type_=ARRAY(DateTime(timezone=True))),
            bindparam("levels", type_=ARRAY(SmallInteger)),
            bindparam("names", type_=ARRAY(Text)),
            bindparam("messages", type_=ARRAY(Text)),
        ),
        {
            "run_ids": [line.run_id for line in lines],
            "task_run_ids": [line.task_run_id for line in lines],
            "distinct_ids": list({line.run_id for line in lines}),
            "at": [line.at for line in lines],
            "levels": [line.level for line in lines],
            "names": [line.name for line in lines],
            "messages": [line.message for line in lines],
        },
    )
    return stored.rowcount


async def page(
    conn: AsyncConnection,
    wanted: LinesWanted,
    *,
    newest_first: bool,
    limit: int,
    offset: int,
) -> list[Line]:
    """By time, then by arrival. Where no runs are named, of the lines that came last.

    Uses `flow_run_logs_by_run`, or the primary key.
    """
    lines = flow_run_logs.alias("lines")
    if wanted.run_ids is None or wanted.either:
        newest = select(flow_run_logs).order_by(flow_run_logs.c.id.desc()).limit(ROWS_SCANNED_MAX)
        lines = newest.subquery("lines")  # type: ignore[assignment]
    order = (lines.c.at, lines.c.id)
    rows = await conn.execute(
        select(lines)
        .where(_condition(wanted, lines.c))
        .order_by(*(column.desc() if newest_first else column for column in order))
        .limit(limit)
        .offset(offset)
    )
    return [_line(row) for row in rows]


def _condition(wanted: LinesWanted, columns: Any) -> ColumnElement[bool]:
    found: list[ColumnElement[bool]] = []
    for column, ids in (
        (columns.run_id, wanted.run_ids),
        (columns.task_run_id, wanted.task_run_ids),
    ):
        if ids is not None:
            found.append(column == any_(cast(ids, ARRAY(postgresql.UUID))))
    if wanted.level_min is not None or wanted.level_max is not None:
        found.append(_between(columns.level, wanted.level_min, wanted.level_max))
    if wanted.since is not None or wanted.until is not None:
        found.append(_between(columns.at, wanted.since, wanted.until))
    if wanted.texts or wanted.texts_needed or wanted.texts_unwanted:
        found.append(_holds(wanted, func.concat(columns.message, " ", columns.name)))
    if not found:
        return and_(True)
    return or_(false(), *found) if wanted.either else and_(True, *found)


def _between(column: Any, lowest: Any, highest: Any) -> ColumnElement[bool]:
    found = []
    if lowest is not None:
        found.append(column >= lowest)
    if highest is not None:
        found.append(column <= highest)
    return and_(True, *found)


def _holds(wanted: LinesWanted, searched: Any) -> ColumnElement[bool]:
    found = [searched.icontains(one, autoescape=True) for one in wanted.texts_needed]
    found += [~searched.icontains(one, autoescape=True) for one in wanted.texts_unwanted]
    if wanted.texts:
        found.append(or_(*(searched.icontains(one, autoescape=True) for one in wanted.texts)))
    return and_(True, *found)


def _line(row: Row[Any]) -> Line:
    return Line(
        number=row.id,
        run_id=row.run_id,
        task_run_id=row.task_run_id,
        at=row.at,
        level=row.level,
        name=row.name,
        message=row.message,
    )
