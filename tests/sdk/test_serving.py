"""`serve` registers what the file has, takes runs, survives the server's absence, and stops."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

import upshot
from tests.ports import free_port
from tests.sdk.fake import FakeServer, logged, offered
from upshot import ClientError, Deployment, EventTrigger, Refused, deployment

pytestmark = pytest.mark.anyio

ORDERS = EventTrigger(expect={"order.complete"}, for_each={"id"})
NAMED = EventTrigger(name="named", expect={"a"})


@deployment(name="ship", max_concurrency=3, overlap="queue", retries=[1, 2], tags={"b", "a"})
def ship(user_id: str) -> str:
    return f"shipped to {user_id}"


@deployment(name="bill")
async def bill(user_id: str = "nobody") -> str:
    return f"billed {user_id}"


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


def with_triggers(
    made: Deployment[..., Any], *triggers: upshot.EventTrigger
) -> Deployment[..., Any]:
    """The same deployment as another state of the file has it."""
    copy = deployment(name=made.name)(made.function)
    copy.triggers = triggers
    return copy


@asynccontextmanager
async def served(
    fake: FakeServer, *deployments: Deployment[..., Any], **more: Any
) -> AsyncIterator[None]:
    """As in a process of its own, until the block ends."""
    before = len(fake.claims)
    task = asyncio.ensure_future(upshot.aserve(*deployments, api_url=fake.url, **more))
    try:
        await fake.until(lambda: len(fake.claims) > before or task.done())
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_the_deployment_and_its_triggers_are_registered_and_its_runs_called(
    fake: FakeServer,
) -> None:
    async with served(fake, with_triggers(ship, ORDERS), limit=5, worker="w"):
        told = fake.deployments["ship"]
        assert told["runner"] == {"type": "pull"}
        assert told["parameter_schema"]["required"] == ["user_id"]
        (name,) = fake.triggers
        assert name == ORDERS.name_for("ship")
        assert fake.triggers[name]["tags"] == ["managed_by:ship"]
        assert fake.claims[0] == {"deployments": ["ship"], "max": 5, "wait": 30, "worker": "w"}
        run = await fake.offer("ship", {"user_id": "7"})
        assert (await fake.ended(run))["result"] == "shipped to 7"


async def test_what_a_deployment_says_of_itself_is_sent(fake: FakeServer) -> None:
    async with served(fake, ship):
        told = fake.deployments["ship"]
    assert told["runner"] == {"type": "pull", "retries": [1, 2]}
    assert (told["max_concurrency"], told["overlap"]) == (3, "queue")
    assert told["tags"] == ["a", "b", "managed_by:ship"]


async def test_several_deployments_are_served_by_one_process(fake: FakeServer) -> None:
    async with served(fake, ship, bill):
        runs = [await fake.offer("ship", {"user_id": "7"}), await fake.offer("bill")]
        results = [(await fake.ended(run))["result"] for run in runs]
    assert results == ["shipped to 7", "billed nobody"]


async def test_triggers_that_the_file_no_longer_has_are_removed_and_no_others(
    fake: FakeServer,
) -> None:
    others: dict[str, Any] = {
        "by-hand": {"tags": ["managed_by", "ship"], "deployment": "ship"},
        "of-another-file": {"tags": ["managed_by:shipping"], "deployment": "ship"},
    }
    for name, document in others.items():
        fake.triggers[name] = {"name": name, "enabled": True, **document}
    async with served(fake, with_triggers(ship, ORDERS, NAMED)):
        assert set(fake.triggers) == {*others, "named", ORDERS.name_for("ship")}
    async with served(fake, with_triggers(ship, ORDERS)):
        assert set(fake.triggers) == {*others, ORDERS.name_for("ship")}
    async with served(fake, with_triggers(ship)):
        assert set(fake.triggers) == set(others)


async def test_with_a_name_for_the_file_triggers_of_a_deployment_it_dropped_are_removed(
    fake: FakeServer,
) -> None:
    async with served(
        fake, with_triggers(ship, ORDERS), with_triggers(bill, NAMED), managed_by="shop"
    ):
        assert set(fake.triggers) == {"named", ORDERS.name_for("ship")}
    async with served(fake, with_triggers(ship, ORDERS), managed_by="shop"):
        assert set(fake.triggers) == {ORDERS.name_for("ship")}


async def test_a_start_does_not_enable_what_somebody_disabled(fake: FakeServer) -> None:
    file = with_triggers(ship, ORDERS)
    async with served(fake, file):
        fake.triggers[ORDERS.name_for("ship")]["enabled"] = False
        fake.deployments["ship"]["enabled"] = False
    async with served(fake, file):
        assert fake.triggers[ORDERS.name_for("ship")]["enabled"] is False
        assert fake.deployments["ship"]["enabled"] is False


async def test_two_triggers_of_one_name_are_refused_before_anything_is_sent(
    fake: FakeServer,
) -> None:
    with pytest.raises(ClientError, match="Give each a name of its own"):
        await upshot.aserve(with_triggers(ship, ORDERS, ORDERS), api_url=fake.url)
    assert fake.calls == []


async def test_what_the_server_refuses_ends_the_start_with_its_reason(fake: FakeServer) -> None:
    fake.on_call = lambda method, path: (
        (422, {"detail": "where: unknown name", "errors": []})
        if (method, path) == ("PUT", "/v1/triggers/named")
        else None
    )
    with pytest.raises(Refused, match="where: unknown name"):
        await upshot.aserve(with_triggers(ship, NAMED), api_url=fake.url)


async def test_a_schema_that_the_server_cannot_use_is_checked_here_alone(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = iter(
        [(422, {"detail": "no", "errors": [{"loc": ["parameter_schema"], "msg": "no"}]})]
    )
    fake.on_call = lambda method, path: next(refusals, None) if method == "PUT" else None
    async with served(fake, ship):
        assert fake.deployments["ship"]["parameter_schema"] is None
    assert "parameters of ship are checked here only" in caplog.text


async def test_without_registering_only_runs_are_asked_for(fake: FakeServer) -> None:
    async with served(fake, ship, register=False):
        assert fake.calls == []
        assert (await fake.ended(await fake.offer("ship", {"user_id": "7"})))["state"]


async def test_a_server_that_is_not_there_yet_is_waited_for_and_one_that_goes_is_found_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "upshot")
    port = free_port()
    task = asyncio.ensure_future(upshot.aserve(bill, api_url=f"http://127.0.0.1:{port}"))
    await logged("cannot register yet")
    for _ in range(2):
        async with FakeServer(port=port) as server:
            assert (await server.ended(await server.offer("bill")))["state"] == "completed"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert "no runs can be taken, trying again" in caplog.text
    assert "runs can be taken again" in caplog.text


async def test_an_offer_that_cannot_be_read_stops_nothing(fake: FakeServer) -> None:
    async with served(fake, bill):
        await fake.offer("bill", scheduled_at="never")
        assert (await fake.ended(await fake.offer("bill")))["state"] == "completed"


async def test_no_more_are_taken_than_there_is_room_for(fake: FakeServer) -> None:
    go = asyncio.Event()

    @deployment(name="slow")
    async def slow() -> None:
        await go.wait()

    async with served(fake, slow, limit=2):
        first = await fake.offer("slow")
        await fake.until(lambda: len(fake.claims) == 2)
        second = await fake.offer("slow")
        third = offered("slow")
        go.set()
        await fake.ended(first)
        await fake.ended(second)
        await fake.offer("slow", run_id=third["run_id"])
        await fake.ended(third["run_id"])
        assert {claim["max"] for claim in fake.claims} <= {1, 2}
        assert fake.claims[1]["max"] == 1


async def test_stopping_lets_a_run_finish(fake: FakeServer) -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    @deployment(name="slow")
    async def slow() -> str:
        begun.set()
        await go.wait()
        return "finished"

    async with served(fake, slow):
        run = await fake.offer("slow")
        await begun.wait()
        asyncio.get_running_loop().call_soon(go.set)
    assert (await fake.ended(run))["result"] == "finished"


async def test_the_key_is_sent_and_what_is_no_address_is_refused(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSHOT_API_KEY", "upk_secret")
    async with served(fake, bill):
        assert fake.keys == {"Bearer upk_secret"}
    with pytest.raises(ClientError, match="is no URL of a server"):
        await upshot.aserve(bill, api_url="localhost:8484")


async def test_a_key_that_may_not_is_said_at_the_start(fake: FakeServer) -> None:
    fake.on_call = lambda method, path: (403, {"detail": "This API key lacks the scope 'admin'."})
    with pytest.raises(Refused, match=r"lacks the scope 'admin'.*UPSHOT_API_KEY"):
        await upshot.aserve(bill, api_url=fake.url)
