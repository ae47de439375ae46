"""Where: what a condition costs each event that it is asked about, in this process."""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from benchmarks.bench import Bench
from benchmarks.figures import RATIO, Figure, Measured, Unit, ratios
from upshot.core.events import RESOURCE_ID, Event
from upshot.core.where import compile_where

MICROSECONDS = Unit("µs", 1)
TIMES = 5_000
SMALL_BYTES, LARGE_BYTES = 300, 10_000

LABEL = 'event.resource.id == "123"'
PAYLOAD = 'event.payload.total > 100 && event.payload.country in ["DE", "FR"]'
LOOP = "event.payload.items.exists(item, item.price > 1000)"


async def measure(bench: Bench) -> Measured:
    small, large = _order(SMALL_BYTES), _order(LARGE_BYTES)
    times = bench.amount(TIMES)
    cases: dict[str, Callable[[], object]] = {
        "a label": _asking(LABEL, small, holds=True),
        "payload of 300 bytes": _asking(PAYLOAD, small, holds=True),
        "payload of 10 KB": _asking(PAYLOAD, large, holds=True),
        "loop over 10 KB": _asking(LOOP, large, holds=False),
        "10 KB parsed by msgspec": lambda: msgspec.json.decode(large.payload),
    }
    rounds = [_round(cases, times) for _ in bench.in_turn()][1:]
    costs = {name: tuple(one[name] for one in rounds) for name in cases}
    parsed = costs["10 KB parsed by msgspec"]
    return Measured(
        name="where",
        title="Where: one condition asked about one event",
        note="In one process, without a server. The condition on the payload compares a number and "
        "looks a country up in a list; the loop looks at each item of an order and finds none.",
        settings={"times": times, "items_in_10_kb": len(json.loads(large.payload)["items"])},
        figures=(
            Figure(
                name="payload of 10 KB, of parsing it",
                unit=RATIO,
                rounds=ratios(costs["payload of 10 KB"], parsed),
            ),
            *(Figure(name=name, unit=MICROSECONDS, rounds=cost) for name, cost in costs.items()),
        ),
    )


def _order(size: int) -> Event:
    """An order whose payload has about so many bytes."""
    item = {"sku": "a-12345", "title": "A thing of some use", "quantity": 1, "price": 10.5}
    payload: dict[str, Any] = {"total": 150.5, "country": "DE", "items": []}
    while len(json.dumps(payload)) + len(json.dumps(item)) < size:
        payload["items"].append(item)
    return Event(
        id=UUID(int=1),
        name="order.complete",
        resource={RESOURCE_ID: "123"},
        related=(),
        payload=json.dumps(payload),
        occurred_at=datetime(2026, 5, 4, 12, tzinfo=UTC),
        received_at=datetime(2026, 5, 4, 12, tzinfo=UTC),
    )


def _asking(text: str, event: Event, *, holds: bool) -> Callable[[], object]:
    where = compile_where(text)
    assert where.holds(event) is holds
    return lambda: where.holds(event)


def _round(cases: Mapping[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Microseconds each time, case by case."""
    return {name: _cost(case, times) for name, case in cases.items()}


def _cost(case: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        case()
    return (time.perf_counter() - began) / times * 1e6
