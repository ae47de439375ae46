"""Whatever runners do, each run ends as it should, on record, and memory stays flat."""

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

from tests.e2e.server import Server, serving
from tests.receiver import Behaviour, Receiver, drip, drop, flood, gzip_bomb, hang, reply
from upshot.core.limits import MIB, RESPONSE_BYTES_KEPT_MAX

GROWTH_BYTES_MAX = 64 * MIB
HUGE = 300 * MIB

EXPECTED = {
    "recovers": "completed",
    "drops": "completed",
    "broken": "failed",
    "busy": "completed",
    "moved": "failed",
    "refuses": "failed",
    "hangs": "failed",
    "drips": "failed",
    "floods": "completed",
    "bombs": "completed",
}


def scripts(bomb: Behaviour) -> dict[str, list[Behaviour]]:
    return {
        "recovers": [reply(500), reply(503), reply(200, b"thanks")],
        "drops": [drop(), reply()],
        "broken": [reply(500)],
        "busy": [reply(429, headers={"retry-after": "1"}), reply(204)],
        "moved": [reply(302, headers={"location": "/elsewhere"})],
        "refuses": [reply(400, b"no such user")],
        "hangs": [hang()],
        "drips": [drip()],
        "floods": [flood(total_bytes=HUGE)],
        "bombs": [bomb],
    }


async def prove(url: str, *, rounds: int) -> int:
    """Call each of them in each round; answers by how many bytes the server grew meanwhile."""
    bomb = gzip_bomb(total_bytes=HUGE)
    async with serving(url) as server:
        before = server.resident_bytes
        for _ in range(rounds):
            await _round(server, bomb)
            grown = server.resident_bytes - before
            assert grown < GROWTH_BYTES_MAX, f"the server grew by {grown / MIB:.0f} MiB"
        return grown


async def _round(server: Server, bomb: Behaviour) -> None:
    async with AsyncExitStack() as stack:
        runners = {
            name: await stack.enter_async_context(Receiver(*script))
            for name, script in scripts(bomb).items()
        }
        for name, runner in runners.items():
            seconds = 0.5 if name in ("hangs", "drips") else 20
            retries = [0.05, 0.05] if name == "recovers" else [0.05]
            await server.api.deploy(name, runner.url, seconds=seconds, retries=retries)
            await server.api.trigger(name, deployment=name, expect=[name])
        run_ids = {name: await server.api.fired(name) for name in runners}
        ended = {name: await server.api.ended(run_id) for name, run_id in run_ids.items()}
    assert {name: run["state"] for name, run in ended.items()} == EXPECTED
    _check_attempts(ended)
    assert [call.path for call in runners["moved"].calls] == ["/run"]
    for name, runner in runners.items():
        assert {call.headers["webhook-id"] for call in runner.calls} == {run_ids[name]}
        assert {call.headers["idempotency-key"] for call in runner.calls} == {run_ids[name]}
        attempts = [json.loads(call.body)["attempt"] for call in runner.calls]
        assert attempts == list(range(1, len(attempts) + 1))


def _check_attempts(ended: Mapping[str, Any]) -> None:
    assert {name: statuses(run) for name, run in ended.items()} == {
        "recovers": [500, 503, 200],
        "drops": [None, 200],
        "broken": [500, 500],
        "busy": [429, 204],
        "moved": [302],
        "refuses": [400],
        "hangs": [None, None],
        "drips": [None, None],
        "floods": [200],
        "bombs": [200],
    }
    assert ended["recovers"]["attempts"][-1]["response"] == "thanks"
    assert ended["broken"]["error"] == "HTTP 500; no retries are left"
    assert _waited(ended["busy"]) >= timedelta(seconds=1)
    assert ended["refuses"]["attempts"][0]["response"] == "no such user"
    assert [one["error"] for one in ended["hangs"]["attempts"]] == ["no answer within 0.5 s"] * 2
    for name in ("floods", "bombs"):
        (attempt,) = ended[name]["attempts"]
        assert len(attempt["response"]) <= RESPONSE_BYTES_KEPT_MAX


def statuses(run: Any) -> list[int | None]:
    return [attempt["status"] for attempt in run["attempts"]]


def _waited(run: Any) -> timedelta:
    """Between the first attempt's end and the second's beginning."""
    first, second = run["attempts"]
    ended = datetime.fromisoformat(first["started"]) + timedelta(seconds=first["duration"])
    return datetime.fromisoformat(second["started"]) - ended
