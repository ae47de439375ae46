"""Open keys by command against a real server: shown, looked for, forgotten."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.e2e.server import SHOP, Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shop(server: Server, upshot: Command) -> Command:
    """The command on a server that waits for three orders to be complete."""
    await server.api.deploy("post-order-complete", "http://127.0.0.1:9/run")
    await server.api.trigger("order-complete", deployment="post-order-complete", **SHOP)
    await server.api.trigger(
        "three", deployment="post-order-complete", expect=["order.created"], threshold=3
    )
    for user in ("123", "124", "456"):
        await server.api.post({"event": "order.created", "resource": {"id": user}})
        if user == "123":
            await server.api.post({"event": "order.created", "resource": {"id": user}})
    return upshot


async def keys_of(upshot: Command, *options: str) -> Any:
    ended = await upshot.beside("trigger", "keys", "order-complete", "--json", *options)
    assert ended.code == 0, ended.err
    return [one["key"] for one in ended.json]


async def test_open_keys_are_shown_and_looked_for(shop: Command) -> None:
    page = await shop.beside("trigger", "keys", "order-complete")
    assert page.code == 0, page.err
    for words in ("prefect.resource.id=123", "prefect.resource.id=456", "open", "0/1"):
        assert words in page.out
    assert await keys_of(shop) == [["123"], ["124"], ["456"]]
    assert await keys_of(shop, "--value", "12*", "--state", "open") == [["123"], ["124"]]
    assert await keys_of(shop, "--limit", "1") == [["123"]]
    assert await keys_of(shop, "--sort", "deadline") == []
    none = await shop.beside("trigger", "keys", "order-complete", "--value", "x")
    assert (none.code, none.err) == (0, "No such key is open.\n")


async def test_a_trigger_without_for_each_has_one_key_without_values(shop: Command) -> None:
    page = await shop.beside("trigger", "keys", "three")
    assert "1/3" in page.out
    assert (await shop.beside("trigger", "forget", "three")).out == "three: [] forgotten\n"
    assert (await shop.beside("trigger", "keys", "three")).err == "No such key is open.\n"


async def test_a_forgotten_key_is_open_no_more(shop: Command) -> None:
    ended = await shop.beside("trigger", "forget", "order-complete", "123")
    assert (ended.code, ended.out) == (0, 'order-complete: ["123"] forgotten\n')
    assert await keys_of(shop) == [["124"], ["456"]]
    again = await shop.beside("trigger", "forget", "order-complete", "123")
    assert again.code == 1
    assert json.dumps(["123"]) in again.err


def test_what_no_key_can_be_is_an_error_of_usage(upshot: Command) -> None:
    assert upshot("trigger", "keys", "t", "--state", "done").code == 2
    assert upshot("trigger", "keys", "t", "--sort", "name").code == 2
    assert upshot("trigger", "forget").code == 2
