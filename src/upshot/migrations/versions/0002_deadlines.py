"""Windows of several conditions a trigger, with their times; events that wait for another."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROWS_CONVERTED_AT_ONCE = 5_000

BEFORE = (
    "ALTER TABLE windows "
    "ADD COLUMN node SMALLINT DEFAULT '0' NOT NULL, "
    "ADD COLUMN started_at TIMESTAMP WITH TIME ZONE, "
    "ADD COLUMN deadline_at TIMESTAMP WITH TIME ZONE, "
    "ADD COLUMN alarms BOOLEAN DEFAULT 'false' NOT NULL",
    "COMMENT ON COLUMN windows.node IS 'which of the trigger''s conditions, in preorder'",
    "COMMENT ON COLUMN windows.started_at IS 'by event time; null: nothing is open'",
    "COMMENT ON COLUMN windows.alarms IS 'the evaluator decides it at deadline_at'",
)

AFTER = (
    "ALTER TABLE windows DROP CONSTRAINT windows_pkey, "
    "ADD PRIMARY KEY (trigger_number, node, key_hash)",
    "CREATE INDEX windows_due ON windows (deadline_at) WHERE alarms",
    "CREATE INDEX windows_by_deadline ON windows (trigger_number, deadline_at, node, key_hash) "
    "WHERE deadline_at IS NOT NULL",
    "CREATE INDEX windows_by_age ON windows (trigger_number, started_at, node, key_hash) "
    "WHERE started_at IS NOT NULL",
    """
    CREATE TABLE held_events (
        id UUID NOT NULL,
        follows UUID NOT NULL,
        until TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "ALTER TABLE triggers_in_force "
    "ADD COLUMN since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL",
    "COMMENT ON COLUMN triggers_in_force.since "
    "IS 'enabled without a break; it sees what was received from then on'",
    "COMMENT ON TABLE held_events "
    "IS 'Events that wait until the one they follow is evaluated; the log has them.'",
)

PAGE = """
SELECT trigger_number, key_hash, state FROM windows
WHERE (trigger_number, key_hash) > (:number, CAST(:hash AS uuid))
ORDER BY trigger_number, key_hash LIMIT :limit
"""

REWRITE = """
UPDATE windows AS w
   SET state = c.state, started_at = c.started_at, deadline_at = c.deadline_at
  FROM unnest(CAST(:numbers AS int[]), CAST(:hashes AS uuid[]), CAST(:states AS text[]),
              CAST(:started AS timestamptz[]), CAST(:deadlines AS timestamptz[]))
       AS c (trigger_number, key_hash, state, started_at, deadline_at)
 WHERE w.trigger_number = c.trigger_number AND w.key_hash = c.key_hash
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def upgrade() -> None:
    for statement in BEFORE:
        op.execute(statement)
    for rows in _batches():
        _rewrite(rows)
    for statement in AFTER:
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("there is no way back; restore a dump")


def _batches() -> Iterator[Sequence[Any]]:
    """All windows, some at a time, in the order of their primary key."""
    number, hashed = -1, UUID(int=0)
    while True:
        place = {"number": number, "hash": hashed, "limit": ROWS_CONVERTED_AT_ONCE}
        rows = op.get_bind().execute(text(PAGE), place).all()
        if not rows:
            return
        yield rows
        number, hashed = rows[-1].trigger_number, rows[-1].key_hash


def _rewrite(rows: Sequence[Any]) -> None:
    times = [_times(row.state) for row in rows]
    op.get_bind().execute(
        text(REWRITE),
        {
            "numbers": [row.trigger_number for row in rows],
            "hashes": [row.key_hash for row in rows],
            "states": [_converted(row.state) for row in rows],
            "started": [started_at for started_at, _ in times],
            "deadlines": [deadline_at for _, deadline_at in times],
        },
    )


def _converted(state: str) -> str:
    """A window's state as this version encodes it, from what the version before wrote."""
    match msgspec.json.decode(state):
        case ["opened", opener, ends_at, _, counted]:
            opened = [
                _seen(opener, opens=True),
                _time(ends_at),
                None,
                [_seen(one, opens=False) for one in counted],
                [],
            ]
            new: list[Any] = ["after", opened, None, None, [], []]
        case ["counting", _, counted, quiet_until]:
            new = ["counting", [_seen(one, opens=False) for one in counted], _time(quiet_until)]
        case other:
            raise ValueError(f"no window of schema 0001: {other!r}")
    return msgspec.json.encode(new).decode()


def _seen(old: list[Any], *, opens: bool) -> list[Any]:
    """The version before did not keep when an event was received; it was late by little."""
    event_id, at = UUID(hex=old[0]), _time(old[1])
    event, received_at = None, at
    if len(old) == 3:
        name, resource, related, payload, occurred, received, follows = old[2]
        received_at = _time(received)
        event = {
            "id": event_id,
            "name": name,
            "resource": resource,
            "related": related,
            "payload": payload,
            "occurred_at": _time(occurred),
            "received_at": received_at,
            "follows": follows and UUID(hex=follows),
        }
    return [event_id, at, received_at, opens, not opens, event]


def _times(state: str) -> tuple[datetime | None, datetime | None]:
    """When what is open was begun, and when it ends, from what the version before wrote.

    `["opened", [id, at, event?], ends_at, count, counted]` or `["counting", count, counted,
    quiet_until]`, times in microseconds.
    """
    match msgspec.json.decode(state):
        case ["opened", [_, at, *_], ends_at, _, _]:
            return _time(at), _time(ends_at)
        case ["counting", _, [[_, at, *_], *_], quiet_until]:
            return _time(at), _time(quiet_until)
        case ["counting", _, [], quiet_until]:
            return None, _time(quiet_until)
        case other:
            raise ValueError(f"no window of schema 0001: {other!r}")


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
