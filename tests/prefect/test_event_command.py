"""`prefect event stream` shows what happens, and `prefect event emit` makes it happen."""

import json
from pathlib import Path

import pytest

from tests.e2e.server import serving, until
from tests.prefect.clients import NEWEST, Client, Program, Shell, url_of

pytestmark = pytest.mark.anyio


async def test_the_stream_shows_each_event_as_it_is_stored(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server:
        shell = Shell(client, tmp_path, url_of(server))
        async with shell.start(client.command, "event", "stream") as stream:

            async def is_connected() -> bool:
                await server.api.post({"event": "knock", "resource": {"id": "door"}})
                return bool(stream.saying("knock"))

            await until(is_connected, within=60)
            await server.api.post({"event": "parcel.weighed", "resource": {"id": "1"}})
            assert await shown(stream, "parcel.weighed") == {"prefect.resource.id": "1"}
            if client is NEWEST:
                # 3.0.0 has no such command.
                await shell.cli("event", "emit", "parcel.measured", "--resource-id", "2")
                assert await shown(stream, "parcel.measured") == {"prefect.resource.id": "2"}


async def shown(stream: Program, event: str) -> dict[str, str]:
    """The resource of the one event of that name."""
    (line,) = await stream.said(f'"{event}"')
    resource: dict[str, str] = json.loads(line)["resource"]
    return resource
