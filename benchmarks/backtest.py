"""Backtest: stored events a second that a trigger is tried on, by one request after the other."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.bench import BATCHED, Bench
from benchmarks.figures import EVENTS_PER_SECOND, Figure, Measured
from benchmarks.processes import expect
from benchmarks.product import Upshot, serving
from benchmarks.story import Chapter

EVENTS = 200_000
KINDS = 2
MARK = 20_000
FIRINGS_ASKED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    opened: float
    fired: float


async def measure(bench: Bench) -> Measured:
    users = bench.amount(EVENTS)
    async with serving() as upshot:
        await bench.post(upshot, Chapter(users=users, opened=0, kinds=KINDS))
        await upshot.settle()
        stored = await upshot.events()
        expect(stored, users, "events stored")
        rounds = [await _round(upshot, users) for _ in bench.in_turn()][1:]
    return Measured(
        name="backtest",
        title="Backtest: a trigger tried on stored events",
        note="Every second event concerns the trigger, each with a key of its own. It opens the "
        "key, or it fires; firings come with rendered parameters, 500 an answer.",
        settings={**BATCHED, "events": users},
        figures=(
            Figure(
                name="every second event opens a key",
                unit=EVENTS_PER_SECOND,
                rounds=tuple(one.opened for one in rounds),
                at_least=MARK,
            ),
            Figure(
                name="every second event fires",
                unit=EVENTS_PER_SECOND,
                rounds=tuple(one.fired for one in rounds),
            ),
        ),
    )


async def _round(upshot: Upshot, users: int) -> _Round:
    opens = {"after": ["order.created.0"], "expect": ["order.complete.0"]}
    fires = {"expect": ["order.created.0"], "parameters": {"user": "{{ event.resource.id }}"}}
    return _Round(
        opened=await _events_per_second(upshot, opens, events=users, firings=0),
        fired=await _events_per_second(upshot, fires, events=users, firings=users // KINDS),
    )


async def _events_per_second(
    upshot: Upshot, trigger: dict[str, Any], *, events: int, firings: int
) -> float:
    body: dict[str, Any] = {
        "trigger": {"for_each": ["prefect.resource.id"], **trigger},
        "since": (datetime.now(UTC) - timedelta(days=1)).isoformat(),
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
