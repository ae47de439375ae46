"""A program emits events while its server is restarted: all are stored, none twice, none waits."""

import asyncio
import json
from contextlib import suppress

from tests.e2e.server import ANSWERS_WITHIN_SECONDS, Api, serving, until
from tests.ports import free_port
from tests.sdk.servers import program

EMIT = """
import json, sys, threading, time
from upshot import emit_event, flush_events

count, pace = int(sys.argv[1]), float(sys.argv[2])
slowest, ids, never = 0.0, [], threading.Event()
for number in range(count):
    begun = time.perf_counter()
    event = emit_event(event="app.did", resource={"id": str(number)}, payload={"n": number})
    slowest = max(slowest, time.perf_counter() - begun)
    ids.append(str(event.id))
    if number == count // 10:
        print("a tenth is emitted", flush=True)
    never.wait(pace)
print("all are emitted", flush=True)
left = flush_events(within=60)
print(json.dumps({"slowest": slowest, "left": left, "ids": ids}), flush=True)
"""


async def prove(
    database_url: str, *, events: int, away_seconds: float, pace_seconds: float
) -> float:
    """Kill the server amid the emitting, start it again later; answers the slowest `emit_event`.

    AssertionError: an event is missing, or stored twice.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with program("-c", EMIT, str(events), str(pace_seconds), url=url) as app:
        async with serving(database_url, port=port) as server:
            await app.said("a tenth is emitted")
            await _some_are_stored(server.api)
            await server.kill()
        never = asyncio.Event()
        with suppress(TimeoutError):
            await asyncio.wait_for(never.wait(), away_seconds)
        async with serving(database_url, port=port) as server:
            await app.said('"slowest"')
            assert await app.end() == 0
            told = json.loads(app.lines[-1])
            stored = await _stored(server.api)
            await server.stop()
    assert told["left"] == 0, app.lines
    assert app.count("events wait until they can be sent") >= 1, "the server was never missed"
    assert len(told["ids"]) == events
    assert sorted(stored) == sorted(told["ids"]), f"{len(stored)} of {events} are stored"
    assert [line for line in app.lines if "lost" in line or "dropped" in line] == []
    return float(told["slowest"])


async def _some_are_stored(api: Api) -> None:
    async def some() -> bool:
        return bool((await api.get("/v1/events", limit=1))["items"])

    await until(some, within=ANSWERS_WITHIN_SECONDS)


async def _stored(api: Api) -> list[str]:
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await api.get("/v1/events", limit=500, **cursor)
        found += [event["id"] for event in page["items"]]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}
