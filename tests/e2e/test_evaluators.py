"""One evaluator at a time, which sees every trigger in the place where it was registered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.e2e.server import SHOP, Api, serving

pytestmark = pytest.mark.anyio

TAKEOVER_SECONDS_MAX = 5.0


async def test_a_standby_takes_over_within_5_seconds_of_a_kill(database_url: str) -> None:
    async with (
        serving(database_url, only="api") as server,
        serving(database_url, only="evaluate") as first,
    ):
        await first.logged("evaluating")
        async with serving(database_url, only="evaluate") as standby:
            await waiting_deployment(server.api)
            await server.api.trigger("t", deployment="waiting", **SHOP)
            await server.api.post(event("order.created", "1"))
            assert not any(line["event"] == "evaluating" for line in standby.log)
            await first.kill()
            await standby.logged("evaluating", within=TAKEOVER_SECONDS_MAX)
            assert await server.api.fired("order.complete", "1")


async def test_a_trigger_sees_every_event_posted_after_its_registration_was_answered(
    database_url: str,
) -> None:
    async with (
        serving(database_url, only="api,evaluate") as server,
        serving(database_url, only="api") as other,
    ):
        await waiting_deployment(server.api)

        async def register_then_post(number: int) -> str:
            name = f"race-{number}"
            await server.api.trigger(name, deployment="waiting", expect=[name])
            (event_id,) = await post_unevaluated(other.api, event(name, "1"))
            return event_id

        async with noise(server.api, other.api):
            posted = await asyncio.gather(*(register_then_post(number) for number in range(40)))
        await server.api.all_evaluated()
        for number, event_id in enumerate(posted):
            runs = (await server.api.get(f"/v1/events/{event_id}"))["runs"]
            assert [run["trigger"] for run in runs] == [f"race-{number}"]


async def test_a_client_that_waits_for_answers_keeps_its_order_whichever_process_it_asks(
    database_url: str,
) -> None:
    async with (
        serving(database_url, only="api,evaluate") as server,
        serving(database_url, only="api") as other,
    ):
        await waiting_deployment(server.api)
        await server.api.trigger("t", deployment="waiting", **SHOP)

        async def order(user: str) -> str:
            await post_unevaluated(server.api, event("order.created", user))
            (event_id,) = await post_unevaluated(other.api, event("order.complete", user))
            return event_id

        async with noise(server.api, other.api):
            completed = await asyncio.gather(*(order(str(number)) for number in range(100)))
        await server.api.all_evaluated()
        fired = {run["labels"]["prefect.resource.id"] for run in await server.api.runs()}
        assert len(fired) == len(completed) == 100


async def test_a_trigger_sees_nothing_from_before_it_or_while_disabled_or_after_its_end(
    database_url: str,
) -> None:
    async with serving(database_url, only="api,evaluate") as server:
        api = server.api
        await waiting_deployment(api)
        await api.post(event("order.created", "before"))
        await api.trigger("t", deployment="waiting", **SHOP)
        assert not await fires(api, "before")

        await api.post(event("order.created", "1"), event("order.created", "2"))
        await api.send("PATCH", "/v1/triggers/t", {"enabled": False})
        assert not await fires(api, "1")
        await api.post(event("order.created", "unseen"))
        await api.send("PATCH", "/v1/triggers/t", {"enabled": True})
        assert await fires(api, "1"), "a disabled trigger's keys stay"
        assert not await fires(api, "unseen")

        await api.send("PATCH", "/v1/triggers/t", {"description": "the same condition"})
        assert await fires(api, "2"), "keys stay when the condition does"

        await api.post(event("order.created", "3"))
        await api.send("PATCH", "/v1/triggers/t", {"expect": ["order.complete", "order.done"]})
        assert not await fires(api, "3"), "another condition forgets the keys"

        await api.post(event("order.created", "4"))
        await api.send("DELETE", "/v1/triggers/t")
        assert not await fires(api, "4")
        assert len(await api.runs()) == 2


async def test_a_backlog_is_judged_by_the_triggers_in_force_when_it_was_posted(
    database_url: str,
) -> None:
    async with serving(database_url, only="api") as server:
        api = server.api
        await waiting_deployment(api)
        ids = []
        await api.trigger("t", deployment="waiting", expect=["go"])
        ids += await post_unevaluated(api, event("go", "1"))
        await api.send("PATCH", "/v1/triggers/t", {"enabled": False})
        ids += await post_unevaluated(api, event("go", "2"))
        await api.send("PATCH", "/v1/triggers/t", {"enabled": True})
        ids += await post_unevaluated(api, event("go", "3"))
        await api.send("DELETE", "/v1/triggers/t")
        ids += await post_unevaluated(api, event("go", "4"))
        assert await api.runs() == []
        async with serving(database_url, only="evaluate"):
            await api.all_evaluated()
        fired = [bool((await api.get(f"/v1/events/{one}"))["runs"]) for one in ids]
        assert fired == [True, False, True, False]


async def test_a_thousand_triggers_registered_in_a_burst_all_fire(database_url: str) -> None:
    async with serving(database_url, only="api,evaluate") as server:
        api = server.api
        await waiting_deployment(api)

        async def register(part: int) -> None:
            for number in range(part, 1_000, 8):
                condition = {"expect": [f"e{number}"], "parameters": {"n": "{{ event.event }}"}}
                await api.trigger(f"t{number}", deployment="waiting", **condition)

        await asyncio.gather(*(register(part) for part in range(8)))
        await api.post(*(event(f"e{number}", "1") for number in range(1_000)))
        fired = [run["trigger"]["name"] for run in await api.runs()]
        assert sorted(fired) == sorted(f"t{number}" for number in range(1_000))


async def test_an_event_whose_run_is_refused_is_set_aside_visibly_and_the_rest_goes_on(
    database_url: str, conn: Any
) -> None:
    await conn.execute("ALTER TABLE runs ADD CHECK (labels::text NOT LIKE '%cursed%')")
    async with serving(database_url, only="api,evaluate") as server:
        api = server.api
        await waiting_deployment(api)
        await api.trigger("t", deployment="waiting", expect=["go"], for_each=["id"])
        users = [*(str(n) for n in range(30)), "cursed", *(str(n) for n in range(30, 60))]
        ids = dict(zip(users, await api.post(*(event("go", user) for user in users)), strict=True))
        shown = await api.get(f"/v1/events/{ids['cursed']}")
        assert shown["runs"] == []
        assert "runs_labels_check" in shown["errors"][0]["error"]
        assert len(await api.runs()) == 60
        assert await api.fired("go", "later")


def event(name: str, user: str) -> dict[str, Any]:
    return {"event": name, "resource": {"id": user}}


async def waiting_deployment(api: Api) -> None:
    """One whose runs stay as they are made."""
    await api.deploy("waiting", "http://127.0.0.1:9/run", enabled=False)


async def fires(api: Api, user: str) -> bool:
    (event_id,) = await api.post(event("order.complete", user))
    return bool((await api.get(f"/v1/events/{event_id}"))["runs"])


async def post_unevaluated(api: Api, *events: dict[str, Any]) -> list[str]:
    answer = await api.send("POST", "/v1/events", list(events))
    return [result["id"] for result in answer["results"]]


@asynccontextmanager
async def noise(*apis: Api) -> AsyncIterator[None]:
    """Others post meanwhile, in batches."""

    async def post(api: Api) -> None:
        while True:
            await post_unevaluated(api, *[event("noise", "1")] * 20)

    posting = [asyncio.create_task(post(api)) for api in apis]
    try:
        yield
    finally:
        for task in posting:
            task.cancel()
        await asyncio.gather(*posting, return_exceptions=True)
