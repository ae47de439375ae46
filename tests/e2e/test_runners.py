"""Whatever a runner does, the run ends as it should, visibly, and harms no other."""

import asyncio
import json
from typing import Any

import pytest

from tests.e2e.server import Server, serving
from tests.proofs import misbehaving_runners
from tests.proofs.misbehaving_runners import GROWTH_BYTES_MAX, statuses
from tests.receiver import Receiver, hang, reply

pytestmark = pytest.mark.anyio


async def test_each_runner_gets_what_its_answers_deserve_and_memory_stays_flat(
    database_url: str,
) -> None:
    assert await misbehaving_runners.prove(database_url, rounds=2) < GROWTH_BYTES_MAX


async def test_a_runner_that_is_gone_disables_its_deployment_whose_runs_wait_until_enabled(
    database_url: str,
) -> None:
    async with Receiver(reply(410), reply(200)) as runner, serving(database_url) as server:
        await server.api.deploy("d", runner.url)
        await server.api.trigger("t", deployment="d", expect=["go"])
        gone = await server.api.ended(await server.api.fired())
        assert gone["state"] == "failed"
        assert statuses(gone) == [410]
        deployment = await server.api.get("/v1/deployments/d")
        assert not deployment["enabled"]
        assert "410" in deployment["disabled_reason"]

        waiting = await server.api.fired()
        # A run of another deployment, asked for later, shows that the line goes on meanwhile.
        async with Receiver() as other:
            await server.api.deploy("other", other.url)
            await server.api.trigger("other", deployment="other", expect=["other"])
            await server.api.ended(await server.api.fired("other"))
        assert (await server.api.get(f"/v1/runs/{waiting}"))["state"] == "scheduled"
        assert len(runner.calls) == 1

        await server.api.send("PATCH", "/v1/deployments/d", {"enabled": True})
        assert (await server.api.ended(waiting))["state"] == "completed"
        assert (await server.api.get("/v1/deployments/d"))["disabled_reason"] is None


async def test_a_dead_runner_slows_no_other_deployment(database_url: str) -> None:
    async with Receiver(hang()) as dead, Receiver() as alive, serving(database_url) as server:
        await server.api.deploy("dead", dead.url, seconds=60, max_concurrency=4)
        await server.api.deploy("alive", alive.url)
        for name in ("dead", "alive"):
            await server.api.trigger(name, deployment=name, expect=[name])
        events = [{"event": "dead", "resource": {"id": str(n)}} for n in range(200)]
        await server.api.post(*events)
        await dead.called(4)
        for _ in range(20):
            run = await server.api.ended(await server.api.fired("alive"), within=10)
            assert run["state"] == "completed"
        assert len(dead.calls) == 4
        await server.kill()


async def test_two_deliverers_together_keep_to_max_concurrency(database_url: str) -> None:
    under_way, most = 0, 0

    async def counted(peer: Any) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        # Long enough for a fourth call to come, if one would.
        await peer.hung_up(within=0.05)
        under_way -= 1
        await reply()(peer)

    async with (
        Receiver(counted) as runner,
        serving(database_url, only="api,evaluate") as server,
        serving(database_url, only="deliver", log_level="debug") as first,
    ):
        await server.api.deploy("d", runner.url, max_concurrency=3)
        await server.api.trigger("t", deployment="d", expect=["go"])
        events = [{"event": "go", "resource": {"id": str(n)}} for n in range(150)]
        await server.api.post(*events[:80])
        await runner.called(3)
        async with serving(database_url, only="deliver", log_level="debug") as second:
            posted = await server.api.post(*events[80:])
            await runner.called(len(runner.calls) + 20)
            # Draining, the first still counts; from then on the second has it all to itself.
            await first.stop()
            for event_id in posted:
                run = await server.api.ended(await server.api.run_of(event_id))
                assert run["state"] == "completed"
            assert attempts_of(first) + attempts_of(second) == len(runner.calls) == 150
            assert attempts_of(first)
            assert attempts_of(second)
    assert most == 3


async def test_a_stopped_server_waits_for_the_call_under_way_and_records_it(
    database_url: str,
) -> None:
    let_go = asyncio.Event()

    async def slow(peer: Any) -> None:
        await let_go.wait()
        await reply(200, b"in the end")(peer)

    async with Receiver(slow) as runner:
        async with serving(database_url) as server:
            await server.api.deploy("d", runner.url)
            await server.api.trigger("t", deployment="d", expect=["go"])
            run_id = await server.api.fired()
            await runner.called()
            stopping = asyncio.create_task(server.stop())
            await server.logged("stopping")
            let_go.set()
            await stopping
        async with serving(database_url, only="api") as server:
            run = await server.api.get(f"/v1/runs/{run_id}")
        assert run["state"] == "completed"
        assert [attempt["response"] for attempt in run["attempts"]] == ["in the end"]
        assert len(runner.calls) == 1


async def test_a_runner_that_works_on_reports_the_end_or_fails_by_its_silence(
    database_url: str,
) -> None:
    async with Receiver(reply(202)) as runner, serving(database_url) as server:
        await server.api.deploy("patient", runner.url)
        await server.api.deploy("hasty", runner.url, run_timeout=0.5)
        for name in ("patient", "hasty"):
            await server.api.trigger(name, deployment=name, expect=[name])

        reported = await server.api.fired("patient")
        (call,) = await runner.called(1)
        report = {"lease": json.loads(call.body)["lease"], "state": "running"}
        answer = await server.api.send("PATCH", f"/v1/runs/{reported}", report)
        assert (answer["state"], answer["cancel"]) == ("running", False)
        report = {**report, "state": "completed", "result": {"invoice": 7}}
        await server.api.send("PATCH", f"/v1/runs/{reported}", report)
        run = await server.api.get(f"/v1/runs/{reported}")
        assert (run["state"], run["result"]) == ("completed", {"invoice": 7})

        silent = await server.api.ended(await server.api.fired("hasty"))
        assert silent["state"] == "failed"
        assert "nothing was heard of it" in silent["error"]
        assert statuses(silent) == [202]


async def test_a_cancelled_run_is_run_again_under_the_same_id(database_url: str) -> None:
    async with Receiver(hang(), reply()) as runner, serving(database_url) as server:
        await server.api.deploy("d", runner.url, seconds=300)
        await server.api.trigger("t", deployment="d", expect=["go"])
        run_id = await server.api.fired()
        await runner.called()
        cancelled = await server.api.send("POST", f"/v1/runs/{run_id}/cancel")
        assert cancelled["state"] == "cancelled"
        again = await server.api.send("POST", f"/v1/runs/{run_id}/retry")
        assert again["id"] == run_id
        run = await server.api.ended(run_id)
        assert run["state"] == "completed"
        assert {call.headers["webhook-id"] for call in runner.calls} == {run_id}
        assert len(runner.calls) == 2
        await server.kill()


async def test_parameters_are_rendered_in_a_child_or_fail_the_run_without_a_call(
    database_url: str,
) -> None:
    async with Receiver() as runner, serving(database_url) as server:
        await server.api.deploy("d", runner.url)
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        await server.api.deploy("strict", runner.url, parameter_schema=schema)
        templates = {
            "looped": ("d", "{% for x in event.payload.list %}{{ x }};{% endfor %}"),
            "misspelt": ("d", "{{ event.payload.totl }}"),
            "looped-misspelt": ("d", "{% for x in event.payload.lst %}{{ x }}{% endfor %}"),
            "no-number": ("strict", "{{ event.payload.list }}"),
            "looped-no-number": ("strict", "{% for x in event.payload.list %}{{ x }}{% endfor %}"),
        }
        ended = {}
        for name, (deployment, template) in templates.items():
            parameters = {"n": template}
            await server.api.trigger(
                name, deployment=deployment, expect=[name], parameters=parameters
            )
            run_id = await server.api.fired(name, payload={"list": [1, 2, 3]})
            ended[name] = await server.api.ended(run_id)
        assert ended.pop("looped")["parameters"] == {"n": "1;2;3;"}
        assert [json.loads(call.body)["parameters"] for call in runner.calls] == [{"n": "1;2;3;"}]
        for name, run in ended.items():
            assert run["state"] == "failed"
            assert ("schema" if "number" in name else "l") in run["error"]
            assert statuses(run) in ([], [None])


def attempts_of(server: Server) -> int:
    return sum(line.get("event") == "attempt" for line in server.log)
