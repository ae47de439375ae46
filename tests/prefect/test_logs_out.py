"""`/api/logs/out`: the lines of a run's log, those there are and those that come."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.e2e.server import Server, serving
from tests.prefect.clients import url_of
from tests.prefect.talking import Talk, authenticated

pytestmark = pytest.mark.anyio

OUT = "/api/logs/out"


async def ad_hoc(server: Server) -> str:
    """A run of a flow; its id."""
    flow = await server.api.send("POST", "/api/flows", {"name": "ship"})
    run = await server.api.send("POST", "/api/flow_runs", {"flow_id": flow["id"]})
    return str(run["id"])


async def say(server: Server, run_id: str, *numbers: int) -> None:
    lines = [
        {
            "name": "prefect.flow_runs",
            "level": 20,
            "message": str(number),
            "timestamp": datetime.now(UTC).isoformat(),
            "flow_run_id": run_id,
        }
        for number in numbers
    ]
    await server.api.send("POST", "/api/logs", lines)


def asking(**filters: Any) -> dict[str, Any]:
    return {"type": "filter", "filter": filters}


async def heard(talk: Talk, number: int) -> list[int]:
    found = [await talk.document() for _ in range(number)]
    assert all(one["type"] == "log" for one in found)
    return [int(one["log"]["message"]) for one in found]


async def test_lines_that_there_are_come_first_and_none_is_told_twice(database_url: str) -> None:
    async with serving(database_url) as server:
        run_id, other = await ad_hoc(server), await ad_hoc(server)
        await say(server, run_id, *range(250))
        await say(server, other, 999)
        async with authenticated(url_of(server), OUT) as talk:
            await talk.send(asking(flow_run_id={"any_": [run_id]}))
            assert await heard(talk, 250) == list(range(250))
            await say(server, run_id, 250, 251)
            assert await heard(talk, 2) == [250, 251]
            await say(server, run_id, 252)
            assert await heard(talk, 1) == [252]


async def test_what_names_no_run_is_told_so(database_url: str) -> None:
    asked = [
        asking(),
        asking(flow_run_id={"any_": []}),
        asking(flow_run_id={"any_": ["x"]}),
        {"type": "filter"},
        {"type": "mood"},
        "no JSON",
    ]
    async with serving(database_url) as server:
        for message in asked:
            async with authenticated(url_of(server), OUT) as talk:
                await talk.send(message)
                code, reason = await talk.closed()
                assert (code, bool(reason)) == (1002, True)
