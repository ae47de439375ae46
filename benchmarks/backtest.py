"""Backtest: stored events a second that a trigger is tried on, against reading the same rows."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.bench import BATCHED, Bench
from benchmarks.figures import EVENTS_PER_SECOND, RATIO, Figure, Measured, ratios
from benchmarks.processes import expect
from benchmarks.product import Upshot, serving
from benchmarks.story import Chapter
from upshot.core.limits import BACKTEST_READ_EVENTS_MAX

EVENTS = 200_000
KINDS = 2
SPAN = timedelta(days=1)
MARK = 0.4
FIRINGS_ASKED = 500

# What a backtest reads of an event that concerns its trigger.
READ = """
SELECT xid::text::int8 AS xid, position, received_at, id, follows, size,
       occurred_at, name, resource_id, labels, related, payload
FROM events WHERE received_at >= $1 ORDER BY xid, position
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    opened: float
    fired: float
    read: float


async def measure(bench: Bench) -> Measured:
    users = bench.amount(EVENTS)
    async with serving() as upshot:
        await bench.post(upshot, Chapter(users=users, opened=0, kinds=KINDS))
        await upshot.settle()
        stored = await upshot.events()
        expect(stored, users, "events stored")
        rounds = [await _round(upshot, users, upshot_first=first) for first in bench.in_turn()][1:]
    opened = tuple(one.opened for one in rounds)
    fired = tuple(one.fired for one in rounds)
    read = tuple(one.read for one in rounds)
    return Measured(
        name="backtest",
        title="Backtest: a trigger tried on stored events",
        note="Every second event concerns the trigger, each with a key of its own. It opens the "
        "key, or it fires; firings come with rendered parameters, 500 an answer. Reading: one "
        "plain SELECT by asyncpg of the same rows in the order of the log, with a cursor that "
        "takes as many at a time as a backtest does; all that this one does with them is count.",
        settings={**BATCHED, "events": users},
        figures=(
            Figure(
                name="every second opens a key, of reading",
                unit=RATIO,
                rounds=ratios(opened, read),
                at_least=MARK,
            ),
            Figure(name="every second event opens a key", unit=EVENTS_PER_SECOND, rounds=opened),
            Figure(name="every second fires, of reading", unit=RATIO, rounds=ratios(fired, read)),
            Figure(name="every second event fires", unit=EVENTS_PER_SECOND, rounds=fired),
            Figure(name="reading the same rows", unit=EVENTS_PER_SECOND, rounds=read),
        ),
    )


async def _round(upshot: Upshot, users: int, *, upshot_first: bool) -> _Round:
    read = 0.0 if upshot_first else await _read(upshot, users)
    opens = {"after": ["order.created.0"], "expect": ["order.complete.0"]}
    fires = {"expect": ["order.created.0"], "parameters": {"user": "{{ event.resource.id }}"}}
    return _Round(
        opened=await _events_per_second(upshot, opens, events=users, firings=0),
        fired=await _events_per_second(upshot, fires, events=users, firings=users // KINDS),
        read=read or await _read(upshot, users),
    )


async def _read(upshot: Upshot, events: int) -> float:
    """Rows a second, on a connection as asyncpg makes it; as many at a time as a backtest reads."""
    found, started_at = 0, time.monotonic()
    async with upshot.sql.transaction():
        cursor = await upshot.sql.cursor(READ, datetime.now(UTC) - SPAN)
        while rows := await cursor.fetch(BACKTEST_READ_EVENTS_MAX):
            found += len(rows)
    seconds = time.monotonic() - started_at
    expect(found, events, "rows read")
    return events / seconds


async def _events_per_second(
    upshot: Upshot, trigger: dict[str, Any], *, events: int, firings: int
) -> float:
    body: dict[str, Any] = {
        "trigger": {"for_each": ["prefect.resource.id"], **trigger},
        "since": (datetime.now(UTC) - SPAN).isoformat(),
        "limit": FIRINGS_ASKED,
    }
    found, started_at = 0, time.monotonic()
    while True:
        answer = await upshot.request("POST", "/v1/triggers/backtest", body)
        found += len(answer["items"])
        if answer["next_cursor"] is None:
            break
        body = {"cursor": answer["next_cursor"], "limit": FIRINGS_ASKED}
    seconds = time.monotonic() - started_at
    expect((answer["events"], found), (events, firings), "events looked at, and firings")
    expect(answer["concerned"], events // KINDS, "events that concerned the trigger")
    return events / seconds
