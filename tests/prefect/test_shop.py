"""A served flow and an emitting script, neither of which knows that it talks to Upshot."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, serving, until
from tests.prefect.clients import FLOWS, Client, Program, Shell, url_of

pytestmark = pytest.mark.anyio

PATIENT = {"PREFECT_RUNNER_POLL_FREQUENCY": "6"}
"""A runner ends when three polls in a row have failed, which a server's restart must not take."""


@dataclass
class Shop:
    """The server, and the flow that is served from another process."""

    server: Server
    shell: Shell
    flow: Program

    async def emit(self, *events: str) -> None:
        """Emit from a script of its own, and wait until all is evaluated."""
        await self.shell.run(FLOWS / "emit.py", *events)
        await self.server.api.all_evaluated()

    async def stored(self, event: str, resource: str) -> bool:
        page = await self.server.api.get("/v1/events", event=event, resource=resource)
        return bool(page["items"])

    async def runs_for(self, parcel: str) -> list[str]:
        """The ids of a parcel's runs."""
        return [
            run["id"] for run in await self.server.api.runs() if parcel in run["labels"].values()
        ]

    async def thanked(self, parcel: str) -> Any:
        """The completed run for a parcel, once it has printed and ended."""
        await self.flow.said(f"parcel {parcel} has arrived")
        (run_id,) = await self.runs_for(parcel)
        run = await self.server.api.ended(run_id)
        assert run["state"] == "completed", run
        assert run["parameters"] == {"parcel": parcel}
        return run

    async def logs_of(self, run_id: str) -> list[str]:
        """What a run has logged, once its end is among it."""
        filters = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}

        async def logged() -> list[str]:
            entries = await self.server.api.send("POST", "/api/logs/filter", filters)
            messages = [entry["message"] for entry in entries]
            return messages if any("Finished in state" in message for message in messages) else []

        return await until(logged)


@pytest.mark.timeout(240)
async def test_a_served_flow_runs_once_for_each_parcel_that_was_sent_and_arrived(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(database_url))
        shell = Shell(client, tmp_path, url_of(server))
        flow = await stack.enter_async_context(shell.start(FLOWS / "shop.py", env=PATIENT))
        await flow.said("is being served")
        shop = Shop(server, shell, flow)

        await for_the_one_that_arrived(shop)
        await when_a_hundred_seconds_lie_between(shop)
        await when_the_server_was_killed_in_between(shop, database_url, stack)

        assert [len(await shop.runs_for(parcel)) for parcel in "1234"] == [1, 0, 1, 1]
        assert len(flow.saying("has arrived")) == 3


async def for_the_one_that_arrived(shop: Shop) -> None:
    await shop.emit("parcel.sent=1", "parcel.sent=2", "parcel.arrived=1")
    run = await shop.thanked("1")
    assert "parcel 1 has arrived" in await shop.logs_of(run["id"])


async def when_a_hundred_seconds_lie_between(shop: Shop) -> None:
    """Prefect itself has forgotten by then that the parcel was sent."""
    now = datetime.now(UTC)
    sent = now - timedelta(seconds=100)
    await shop.emit(f"parcel.sent=3={sent.isoformat()}", f"parcel.arrived=3={now.isoformat()}")
    await shop.thanked("3")


async def when_the_server_was_killed_in_between(
    shop: Shop, database_url: str, stack: AsyncExitStack
) -> None:
    """The runner and the emitting script wait for the next server, and go on."""
    port = shop.server.api.http.base_url.port
    assert port
    async with shop.shell.start(
        FLOWS / "emit.py", "parcel.sent=4", "-", "parcel.arrived=4"
    ) as emitting:
        await emitting.said("waiting")
        await until(lambda: shop.stored("parcel.sent", "4"))
        await shop.server.kill()
        shop.server = await stack.enter_async_context(serving(database_url, port=port))
        await emitting.tell()
        assert await emitting.ended() == 0, emitting.text
    await shop.thanked("4")
