"""A webhook block of the real client, which an automation of the same client calls."""

import json
from pathlib import Path

import pytest

from tests.e2e.server import serving
from tests.prefect.clients import FLOWS, Client, Shell, client, url_of
from tests.receiver import Receiver, reply

__all__ = ["client"]

pytestmark = pytest.mark.anyio

DELIVERED = {
    "event": "parcel.delivered",
    "resource": {"id": "parcel.7", "name": "Parcel 7"},
    "payload": {"what": "arrived"},
}


async def test_a_block_is_saved_loaded_and_changed_and_an_automation_calls_it(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server, Receiver(reply(202)) as chat:
        shell = Shell(client, tmp_path, url_of(server))
        await shell.run(FLOWS / "chat.py", chat.url)
        (event_id,) = await server.api.post(DELIVERED)
        run = await server.api.ended(await server.api.run_of(event_id))
        assert run["state"] == "completed", run
        (call,) = chat.calls
    assert (call.method, json.loads(call.body)) == ("PUT", {"text": "Parcel 7 has arrived"})
    assert call.headers["x-token"] == "hush"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == run["id"]
