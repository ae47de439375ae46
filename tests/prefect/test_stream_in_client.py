"""The client's own WebSocket: what it sends is stored in its order, and once, whatever is cut."""

from pathlib import Path

import pytest

from tests.e2e.server import Server, serving
from tests.prefect.clients import FLOWS, Client, Shell, client, url_of
from tests.prefect.proxy import proxying

__all__ = ["client"]

pytestmark = pytest.mark.anyio

NUMBER = 1_000
EMIT_MANY = FLOWS / "emit_many.py"


async def counted(server: Server) -> list[int]:
    """The numbers of the events that are stored, in the order of the log."""
    found: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = await server.api.get("/v1/events", event="counted", limit=500, **cursor)
        found += [event["payload"]["n"] for event in page["items"]]
        if page["next_cursor"] is None:
            return found[::-1]
        cursor = {"cursor": page["next_cursor"]}


async def test_events_are_stored_by_the_time_the_client_has_closed(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server:
        shell = Shell(client, tmp_path, url_of(server))
        # It pings only when it connects: that it closes is all that says it has sent everything.
        await shell.run(EMIT_MANY, str(NUMBER), str(10 * NUMBER))
        assert await counted(server) == list(range(NUMBER))


async def test_a_killed_server_loses_and_repeats_nothing(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server:
        port = server.api.http.base_url.port
        shell = Shell(client, tmp_path, url_of(server))
        async with shell.start(EMIT_MANY, str(NUMBER), "100") as program:
            await program.said(f"emitted {NUMBER // 3}")
            await server.kill()
            async with serving(database_url, port=port or 0) as again:
                assert await program.ended() == 0, program.text
                assert await counted(again) == list(range(NUMBER))


async def test_a_cut_connection_loses_and_repeats_nothing(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    async with (
        serving(database_url) as server,
        proxying(server.api.http.base_url.port or 0) as proxy,
    ):
        shell = Shell(client, tmp_path, f"http://127.0.0.1:{proxy.port}")
        async with shell.start(EMIT_MANY, str(NUMBER), "100") as program:
            for third in (1, 2):
                await program.said(f"emitted {third * NUMBER // 3}")
                proxy.cut()
            assert await program.ended() == 0, program.text
        assert proxy.cuts >= 2
        assert await counted(server) == list(range(NUMBER))
