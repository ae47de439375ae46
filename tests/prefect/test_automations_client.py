"""Prefect's own client makes, shows, changes and deletes automations."""

import json
from pathlib import Path

import httpx
import pytest

from tests.api.conftest import RUNNER
from tests.prefect.clients import FLOWS, NEWEST, Client, Shell

pytestmark = pytest.mark.anyio


async def test_the_client_and_its_command(client: Client, base_url: str, tmp_path: Path) -> None:
    v1 = httpx.AsyncClient(base_url=base_url)
    made = await v1.put("/v1/deployments/post-order-complete", json={"runner": RUNNER})
    commands = [
        ["automation", "ls"],
        ["automation", "inspect", "sequence \N{PACKAGE}"],
        ["automation", "pause", "sequence \N{PACKAGE}"],
        ["automation", "inspect", "nobody's"],
        ["automation", "resume", "compound \N{PACKAGE}"],
        ["automation", "delete", "compound \N{PACKAGE}"],
    ]
    if client is NEWEST:
        document = {
            "name": "made",
            "trigger": {"expect": ["x"]},
            "actions": [{"type": "do-nothing"}],
        }
        refused = {**document, "actions": [{"type": "cancel-flow-run"}]}
        commands += [
            ["automation", "create", "--from-json", json.dumps(document)],
            ["automation", "create", "--from-json", json.dumps(refused)],
        ]
    printed = await Shell(client, tmp_path, base_url).run(
        FLOWS / "automating.py", made.json()["id"], json.dumps(commands)
    )
    statuses = [line.rpartition(" ")[2] for line in printed.splitlines() if line.startswith("$ ")]
    assert statuses == ["0", "0", "0", "1", "0", "0", "0", "1"][: len(commands)], printed
    triggers = (await v1.get("/v1/triggers")).json()["items"]
    await v1.aclose()
    shown = {one["title"]: one["enabled"] for one in triggers}
    assert shown == {
        "event \N{PACKAGE}": True,
        "sequence \N{PACKAGE}": False,
        **({"made": True} if client is NEWEST else {}),
    }
    assert ("There is no action 'cancel-flow-run' here" in printed) == (client is NEWEST)
