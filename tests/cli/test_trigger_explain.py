"""Why an event did what it did, by command against a real server."""

from uuid import uuid4

import pytest

from tests.cli.conftest import Command
from tests.e2e.server import SHOP, Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shop(server: Server, upshot: Command) -> Command:
    """The command on a server that waits for orders to be complete."""
    await server.api.deploy("post-order-complete", "http://127.0.0.1:9/run")
    await server.api.trigger("order-complete", deployment="post-order-complete", **SHOP)
    return upshot


async def emit(upshot: Command, event: str) -> str:
    ended = await upshot.beside("event", "emit", event, "--resource", "id=123", "--wait", "--json")
    assert ended.code == 0, ended.err
    event_id: str = ended.json["id"]
    return event_id


async def test_checks_states_and_the_outcome_are_printed_the_outcome_last(shop: Command) -> None:
    created, complete = await emit(shop, "order.created"), await emit(shop, "order.complete")
    opened = await shop.beside("trigger", "explain", "order-complete", created)
    assert opened.code == 0, opened.err
    lines = opened.out.splitlines()
    assert lines[0] == "order-complete, version 1"
    assert "✓ name: order.created" in lines
    assert "key     prefect.resource.id=123" in lines
    assert "before  nothing" in lines
    assert lines[-1] == "Opened: fires when `order.complete` happens, however long it takes."
    fired = await shop.beside("trigger", "explain", "order-complete", complete)
    assert "opened by order.created" in fired.out
    assert any(line.startswith("run     ") for line in fired.out.splitlines())


async def test_what_did_not_match_has_a_cross_and_a_reason(shop: Command) -> None:
    event_id = await emit(shop, "order.lost")
    ended = await shop.beside("trigger", "explain", "order-complete", event_id)
    cross = next(line for line in ended.out.splitlines() if line.startswith("✗"))
    assert cross.startswith("✗ name: no pattern fits the name `order.lost`")


async def test_as_json_it_is_what_the_server_answers(shop: Command, server: Server) -> None:
    event_id = await emit(shop, "order.created")
    ended = await shop.beside("trigger", "explain", "order-complete", event_id, "--json")
    path = f"/v1/triggers/order-complete/explain/{event_id}"
    assert ended.json == await server.api.get(path)


async def test_an_unknown_event_is_an_error(shop: Command) -> None:
    ended = await shop.beside("trigger", "explain", "order-complete", str(uuid4()))
    assert (ended.code, "There is no event" in ended.err) == (1, True)
