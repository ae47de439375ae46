"""Every example of docs/prefect.md runs with Prefect's own client, and does what the page says."""

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, serving
from tests.pages import Page
from tests.pages import Shell as Terminal
from tests.prefect.clients import CLIENTS, NEWEST, Shell, url_of
from upshot.prefect import absent

pytestmark = pytest.mark.anyio

PAGE = Page("prefect.md")
MOVING = PAGE.examples["Moving over in five minutes"]
DIFFERS = PAGE.examples["What differs, and why"]
KEYS = PAGE.examples["Keys"]
IN_V1 = PAGE.examples["Flows and automations in /v1"]
WEBHOOK = PAGE.examples["Webhooks instead of flows"]


def test_every_example_is_run_here() -> None:
    assert {heading: set(blocks) for heading, blocks in PAGE.examples.items()} == {
        "Moving over in five minutes": {"sh", "python"},
        "What differs, and why": {"json"},
        "Keys": {"sh"},
        "Flows and automations in /v1": {"sh"},
        "Webhooks instead of flows": {"python"},
    }


def test_the_versions_are_those_that_are_tested() -> None:
    newest, oldest = (client.version for client in CLIENTS)
    assert f"{oldest} and {newest}" in PAGE.text


async def test_the_flow_runs_once_and_can_be_seen_in_v1(database_url: str, tmp_path: Path) -> None:
    orders, shop = (
        written(tmp_path / name, text)
        for name, text in zip(("orders.py", "shop.py"), MOVING["python"], strict=True)
    )
    async with serving(database_url) as server:
        assert MOVING["sh"] == ["export PREFECT_API_URL=http://127.0.0.1:8484/api\n"]
        shell = Shell(NEWEST, tmp_path, url_of(server))
        async with shell.start(orders) as serves:
            await serves.said("is being served")
            await shell.run(shop)
            await server.api.all_evaluated()
            (said,) = await serves.said("has completed an order")
            (run,) = await server.api.runs()
            await server.api.ended(run["id"])
        shown = await terminal(server, tmp_path).say(*IN_V1["sh"])
    assert "User 123 has completed an order" in said
    document, table = json.JSONDecoder().raw_decode(shown)
    assert [one["id"] for one in document["items"]] == [run["id"]]
    assert "completed" in shown[table:]


async def test_templates_give_text_or_json_as_the_page_says(
    database_url: str, tmp_path: Path
) -> None:
    (parameters,) = map(json.loads, DIFFERS["json"])
    async with serving(database_url) as server:
        await server.api.deploy("d", "http://127.0.0.1:9/nobody")
        await server.api.trigger("t", deployment="d", expect=["go"], parameters=parameters)
        run_id = await server.api.fired("go", "7", payload={"order_items": ["a", 2]})
        run = await server.api.get(f"/v1/runs/{run_id}")
    assert run["parameters"] == {"user_id": "7", "order": {"items": ["a", 2]}}


async def test_a_key_is_taken_in_both_forms(database_url: str, tmp_path: Path) -> None:
    create, bearer, basic = KEYS["sh"][0].splitlines()
    assert bearer == "export PREFECT_API_KEY=upk_..."
    assert basic.startswith("export PREFECT_API_AUTH_STRING=anyone:upk_... ")
    async with serving(database_url) as server:
        key = (await terminal(server, tmp_path, database_url).say(create)).split()[-1]
        assert key.startswith("upk_")
        assert await counts(server, headers={"authorization": f"Bearer {key}"}) == 200
        assert await counts(server, auth=("anyone", key)) == 200
        assert await counts(server) == 401


async def test_the_automation_calls_its_webhook_as_a_run(database_url: str, tmp_path: Path) -> None:
    (program,) = WEBHOOK["python"]
    async with serving(database_url) as server:
        await Shell(NEWEST, tmp_path, url_of(server)).run(written(tmp_path / "late.py", program))
        (trigger,) = (await server.api.get("/v1/triggers"))["items"]
        (deployment,) = (await server.api.get("/v1/deployments"))["items"]
    assert trigger["title"] == "Orders that take too long"
    (action,) = trigger["actions"]
    assert (action["kind"], action["deployment"]) == ("call-webhook", deployment["name"])
    assert deployment["runner"]["type"] == "webhook"


def test_what_is_left_out_is_told_of_on_the_page() -> None:
    told = " ".join(cell for row in PAGE.rows("What is left out") for cell in row).lower()
    for path in ("work_pools", "variables", "artifacts", "concurrency limits", "ui"):
        assert path.replace("_", " ") in told
        assert path == "concurrency limits" or f"/{path}" in absent.INSTEAD


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def terminal(server: Server, directory: Path, database_url: str = "") -> Terminal:
    """With the `upshot` command of this environment."""
    here = Path(sys.executable).parent
    begin = f"PATH={here}:$PATH; export UPSHOT_API_URL={url_of(server)}\n"
    if database_url:
        begin += f"export UPSHOT_DATABASE_URL='{database_url}'\n"
    return Terminal(url_of(server), directory, begin=begin)


async def counts(server: Server, **how: Any) -> int:
    """The status with which one question of a client is answered."""
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"{url_of(server)}/api/automations/count"
        return (await http.post(url, json={}, **how)).status_code
