"""Triggers with actions: how they are kept, what their firings do, and what is told of it."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from tests.api.conftest import RUNNER, Api
from upshot.core.limits import CHAIN_DEPTH_MAX
from upshot.pipeline.evaluate import CursorMoved, Evaluator
from upshot.storage import queue, triggers
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

ID = "prefect.resource.id"
RUN = {"type": "run", "deployment": "ship", "parameters": {"user": "{{ event.resource.id }}"}}
ANNOUNCED = "prefect.automation."


@pytest.fixture
async def shop(api: Api) -> Api:
    for name in ("ship", "bill"):
        assert (await api.put(f"/v1/deployments/{name}", {"runner": RUNNER})).status_code == 201
    return api


async def put(api: Api, name: str, *actions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = await api.put(
        f"/v1/triggers/{name}", {"expect": ["go"], "actions": [*actions], **fields}
    )
    assert answer.status_code in (200, 201), answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def go(api: Api, *resources: str, name: str = "go", related: Any = ()) -> list[str]:
    ids = await api.post_events(
        *({"event": name, "resource": {"id": one}, "related": list(related)} for one in resources)
    )
    await api.evaluate()
    return ids


async def announced(api: Api) -> list[dict[str, Any]]:
    """What is told of firings, the oldest first."""
    found = (await api.get("/v1/events", limit=500))["items"]
    return [one for one in found[::-1] if one["event"].startswith(ANNOUNCED)]


def short(events: list[dict[str, Any]]) -> list[str]:
    return [one["event"].removeprefix(ANNOUNCED) for one in events]


async def runs(api: Api) -> list[dict[str, Any]]:
    """In full, by deployment."""
    found = (await api.get("/v1/runs"))["items"]
    whole = [await api.get(f"/v1/runs/{run['id']}") for run in found]
    return sorted(whole, key=lambda run: str(run["deployment"]))


async def version_of(api: Api, name: str) -> tuple[bool, int]:
    shown = await api.get(f"/v1/triggers/{name}")
    return shown["enabled"], shown["version"]


async def test_actions_are_kept_as_they_were_written_and_others_see_none_of_it(shop: Api) -> None:
    other = str(uuid4())
    made = await put(
        shop, "t", RUN, {"type": "pause", "trigger": other}, announce=True, title="Alle"
    )
    shown = await shop.get("/v1/triggers/t")
    assert shown == made
    assert shown["actions"] == [
        {**RUN, "schedule_after": 0, "kind": "run-deployment"},
        {"type": "pause", "trigger": other},
    ]
    assert (shown["announce"], shown["title"], shown["deployment"]) == (True, "Alle", None)
    again = await shop.put("/v1/triggers/t", shown)
    assert (again.status_code, again.json()) == (200, shown)
    assert (await shop.put("/v1/triggers/p", {"deployment": "ship"})).status_code == 201
    plain = await shop.get("/v1/triggers/p")
    assert not plain.keys() & {"actions", "announce", "title"}


async def test_a_patch_goes_from_one_form_to_the_other(shop: Api) -> None:
    await shop.put("/v1/triggers/t", {"deployment": "ship", "expect": ["go"]})
    refused = await shop.client.patch("/v1/triggers/t", json={"actions": [RUN]})
    assert (refused.status_code, "deployment" in refused.text) == (422, True)
    for change in (
        {"actions": [RUN], "deployment": None},
        {"actions": None, "deployment": "bill"},
    ):
        answer = await shop.client.patch("/v1/triggers/t", json=change)
        assert (answer.status_code, answer.json()["keys"]) == (200, {"kept": 0})
    assert "actions" not in await shop.get("/v1/triggers/t")


@pytest.mark.parametrize(
    ("action", "loc"),
    [
        ({"type": "run", "deployment": "none"}, ["deployment"]),
        ({**RUN, "parameters": {"a": "{{ b }}"}}, ["parameters", "a"]),
        ({**RUN, "deployment": "strict", "parameters": {"a": {"$json": '"x"'}}},
         ["parameters", "a"]),
        ({"type": "resume", "trigger": "t"}, ["trigger"]),
    ],
)  # fmt: skip
async def test_a_wrong_action_is_refused_with_its_place(
    shop: Api, action: dict[str, Any], loc: list[str]
) -> None:
    schema = {"properties": {"a": {"type": "integer"}}}
    await shop.put("/v1/deployments/strict", {"runner": RUNNER, "parameter_schema": schema})
    answer = await shop.put("/v1/triggers/t", {"actions": [{"type": "nothing"}, action]})
    assert answer.status_code == 422
    assert [one["loc"] for one in answer.json()["errors"]] == [["actions", 1, *loc]]


async def test_a_deployment_that_an_action_runs_stays(shop: Api) -> None:
    await put(shop, "t", {"type": "nothing"}, RUN)
    refused = await shop.client.delete("/v1/deployments/ship")
    assert (refused.status_code, "'t'" in refused.json()["detail"]) == (409, True)
    assert (await shop.client.delete("/v1/deployments/bill")).status_code == 204


async def test_a_firing_does_all_its_actions_and_a_replay_makes_the_same(shop: Api) -> None:
    bill = {"type": "run", "deployment": "bill", "schedule_after": 3600}
    await put(shop, "t", RUN, {"type": "nothing"}, bill, announce=True)
    await shop.post_events({"event": "go", "resource": {"id": "7"}})
    seen = [await made_and_undone(shop.conn) for _ in range(2)]
    assert seen[0] == seen[1]
    await shop.evaluate()
    billed, shipped = await runs(shop)
    assert (shipped["deployment"], shipped["parameters"]) == ("ship", {"user": "7"})
    assert billed["scheduled_at"] > shipped["scheduled_at"]
    assert {billed["id"], shipped["id"]} | {one["id"] for one in await announced(shop)} == {
        str(one) for one in seen[0]
    }


async def made_and_undone(conn: asyncpg.Connection) -> list[UUID]:
    """The ids of what a turn of the evaluator makes, which is taken back."""
    undo = conn.transaction()
    await undo.start()
    evaluator = await Evaluator.load(conn, key_retention=timedelta(days=90))
    await evaluator.turn()
    rows = await conn.fetch(
        "SELECT id FROM runs UNION ALL SELECT id FROM events WHERE name LIKE $1 ORDER BY id",
        ANNOUNCED + "%",
    )
    await undo.rollback()
    return [row["id"] for row in rows]


async def test_who_has_lost_the_cursor_has_told_nothing_and_paused_nothing(shop: Api) -> None:
    other = await put(shop, "other", RUN, expect=["other"])
    await put(shop, "t", RUN, {"type": "pause", "trigger": other["id"]}, announce=True)
    await shop.post_events({"event": "go", "resource": {"id": "7"}})
    void = await Evaluator.load(shop.conn, key_retention=timedelta(days=90))
    await shop.conn.execute("UPDATE cursors SET version = version + 1")
    with pytest.raises(CursorMoved):
        await void.turn()
    assert (await announced(shop), await runs(shop)) == ([], [])
    assert await version_of(shop, "other") == (True, 1)
    await shop.evaluate()
    assert await version_of(shop, "other") == (False, 2)


async def test_a_firing_is_announced_as_it_happened(shop: Api) -> None:
    made = await put(shop, "t", RUN, announce=True, title="Every order", for_each=["id"])
    ship = await shop.get("/v1/deployments/ship")
    (cause,) = await go(shop, "7")
    (run,) = await runs(shop)
    first, begun, executed = await announced(shop)
    assert short([first, begun, executed]) == [
        "triggered", "action.triggered", "action.executed",
    ]  # fmt: skip
    assert first["resource"] == {
        ID: f"prefect.automation.{made['id']}",
        "prefect.resource.name": "Every order",
        "prefect.posture": "Reactive",
    }
    assert first["payload"]["triggering_labels"] == {ID: "7"}
    assert first["payload"]["triggering_event"]["id"] == cause
    assert begun["related"] == [
        {ID: f"prefect.deployment.{ship['id']}", "prefect.resource.role": "target"},
        {ID: f"prefect.flow-run.{run['id']}", "prefect.resource.role": "flow-run"},
        {
            ID: f"prefect.event.{first['id']}",
            "prefect.resource.role": "automation-triggered-event",
        },
        {ID: f"prefect.event.{cause}", "prefect.resource.role": "triggering-event"},
    ]
    assert executed["payload"] == begun["payload"]
    assert begun["payload"]["invocation"] == run["id"]


async def test_a_plain_trigger_can_be_announced_too(shop: Api) -> None:
    await shop.put("/v1/triggers/t", {"deployment": "ship", "expect": ["go"], "announce": True})
    await go(shop, "7")
    told = await announced(shop)
    assert short(told) == ["triggered", "action.triggered", "action.executed"]
    assert told[0]["resource"]["prefect.resource.name"] == "t"


async def test_what_cannot_be_rendered_is_a_failed_run_and_a_failed_action(shop: Api) -> None:
    wrong = {**RUN, "parameters": {"n": {"$json": "{{ event.resource.id }}"}}}
    await put(shop, "t", wrong, RUN, announce=True)
    await go(shop, "seven")
    failed, made = sorted(await runs(shop), key=lambda run: str(run["state"]))
    assert (failed["state"], made["state"]) == ("failed", "scheduled")
    assert "no JSON" in failed["error"]
    told = await announced(shop)
    assert Counter(short(told)) == {
        "triggered": 1, "action.triggered": 2, "action.failed": 1, "action.executed": 1,
    }  # fmt: skip
    (reason,) = (one["payload"]["reason"] for one in told if one["event"].endswith("failed"))
    assert reason == failed["error"]


async def test_the_run_deployment_is_the_one_that_the_event_tells_of(shop: Api) -> None:
    ids = {name: (await shop.get(f"/v1/deployments/{name}"))["id"] for name in ("ship", "bill")}
    inferred = {"type": "run", "parameters": {"name": "{{ deployment.name }}"}}
    await put(shop, "t", inferred, announce=True)
    await go(shop, f"prefect.deployment.{ids['bill']}")
    related = [{"id": f"prefect.deployment.{ids['ship']}", "role": "deployment"}]
    await go(shop, "7", related=related)
    billed, shipped = await runs(shop)
    assert [billed["parameters"], shipped["parameters"]] == [{"name": "bill"}, {"name": "ship"}]
    assert short(await announced(shop)).count("action.executed") == 2


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize("resource", ["7", f"prefect.deployment.{uuid4()}", "prefect.deployment.x"])
@pytest.mark.parametrize("action", [{"type": "run"}, {"type": "resume"}])
async def test_what_cannot_be_inferred_makes_no_run_and_is_not_silent(
    shop: Api, action: dict[str, Any], resource: str, announce: bool
) -> None:
    await put(shop, "t", action, RUN, announce=announce)
    (cause,) = await go(shop, resource)
    assert [run["deployment"] for run in await runs(shop)] == ["ship"]
    event = await shop.get(f"/v1/events/{cause}")
    failed = [one for one in await announced(shop) if one["event"].endswith("action.failed")]
    if announce:
        assert ([one["payload"]["action_index"] for one in failed], event["errors"]) == ([0], [])
        assert failed[0]["payload"]["reason"]
    else:
        assert failed == []
        (error,) = event["errors"]
        assert (error["trigger"], error["error"].partition(":")[0]) == ("t", "actions.0")


async def test_another_trigger_is_paused_from_its_entry_on_and_resumed(shop: Api) -> None:
    other = await put(shop, "other", RUN, expect=["order"])
    for name, change in (("stop", "pause"), ("start", "resume")):
        await put(shop, name, {"type": change, "trigger": other["id"]}, expect=[name])
    # All in one batch: the pause stands behind what was posted before it was decided.
    await shop.post_events(
        *({"event": name, "resource": {"id": "1"}} for name in ("stop", "order"))
    )
    await shop.evaluate()
    assert len(await runs(shop)) == 1
    await go(shop, "2", name="order")
    assert len(await runs(shop)) == 1
    assert await version_of(shop, "other") == (False, 2)
    await go(shop, "3", name="start")
    assert await version_of(shop, "other") == (True, 3)
    await go(shop, "4", name="order")
    assert sorted(run["parameters"]["user"] for run in await runs(shop)) == ["1", "4"]
    await go(shop, "5", name="start")
    assert await version_of(shop, "other") == (True, 3), "it was enabled already"


async def test_a_paused_trigger_keeps_its_open_keys(shop: Api) -> None:
    other = await put(shop, "other", RUN, after=["opened"], expect=["closed"], for_each=["id"])
    for name, change in (("stop", "pause"), ("start", "resume")):
        await put(shop, name, {"type": change, "trigger": other["id"]}, expect=[name])
    await go(shop, "1", name="opened")
    await go(shop, "x", name="stop")
    await go(shop, "1", name="closed")
    await go(shop, "x", name="start")
    assert await runs(shop) == []
    await go(shop, "1", name="closed")
    assert len(await runs(shop)) == 1


async def test_several_changes_of_one_batch_are_made_in_their_order(shop: Api) -> None:
    other = await put(shop, "other", RUN, expect=["order"])
    for name, change in (("stop", "pause"), ("start", "resume")):
        await put(shop, name, {"type": change, "trigger": other["id"]}, expect=[name])
    story = ("stop", "stop", "start", "stop")
    await shop.post_events(*({"event": name, "resource": {"id": "1"}} for name in story))
    await shop.evaluate()
    assert await version_of(shop, "other") == (False, 4)
    rows = await shop.conn.fetch(
        "SELECT payload::json #>> '{document,enabled}' AS enabled FROM events "
        "WHERE name = 'upshot.trigger.saved' AND payload ->> 'name' = 'other' ORDER BY position"
    )
    assert [row["enabled"] for row in rows] == ["true", "false", "true", "false"]


async def test_a_trigger_that_pauses_itself_fires_for_what_was_there_and_then_no_more(
    shop: Api,
) -> None:
    made = await put(shop, "t", RUN)
    await put(shop, "t", RUN, {"type": "pause", "trigger": made["id"]})
    await shop.post_events(*({"event": "go", "resource": {"id": str(n)}} for n in range(3)))
    await shop.evaluate()
    await go(shop, "4")
    assert len(await runs(shop)) == 3
    assert await version_of(shop, "t") == (False, 3)


async def test_an_automation_that_an_event_tells_of_is_paused(shop: Api) -> None:
    noisy = await put(shop, "noisy", RUN, announce=True)
    await put(shop, "calm", {"type": "pause"}, expect=["prefect.automation.triggered"])
    await go(shop, "7")
    assert await version_of(shop, "noisy") == (False, 2)
    assert noisy["id"] != (await shop.get("/v1/triggers/calm"))["id"]
    assert await version_of(shop, "calm") == (True, 1)


async def test_a_change_that_a_request_is_making_is_waited_for_and_kept(
    shop: Api, database: Database
) -> None:
    other = await put(shop, "other", RUN, expect=["order"])
    await put(shop, "t", {"type": "pause", "trigger": other["id"]})
    await shop.post_events({"event": "go", "resource": {"id": "7"}})
    pid = await shop.conn.fetchval("SELECT pg_backend_pid()")
    async with database.begin() as changing:
        stored = await triggers.lock(changing, "other")
        assert stored is not None
        document = {**stored.document, "description": "changed meanwhile"}
        changed = await triggers.replace(changing, stored.id, name="renamed", document=document)
        await triggers.append_saved(changing, changed, keys="keep", condition_changed=False)
        evaluating = asyncio.create_task(shop.evaluate())
        blocking = text("SELECT cardinality(pg_blocking_pids(:pid))")
        while not await changing.scalar(blocking, {"pid": pid}):
            assert not evaluating.done()
    await evaluating
    shown = await shop.get("/v1/triggers/renamed")
    assert (shown["enabled"], shown["version"]) == (False, 3)
    assert shown["description"] == "changed meanwhile"
    in_force = await shop.conn.fetchrow(
        "SELECT version, document ->> 'enabled' AS enabled FROM triggers_in_force WHERE id = $1",
        UUID(other["id"]),
    )
    assert tuple(in_force) == (3, "false")


async def test_a_trigger_that_is_gone_cannot_be_paused(shop: Api) -> None:
    other = await put(shop, "other", RUN, expect=["order"])
    await put(shop, "t", {"type": "pause", "trigger": other["id"]}, announce=True)
    assert (await shop.client.delete("/v1/triggers/other")).status_code == 204
    await go(shop, "7")
    (failed,) = (one for one in await announced(shop) if one["event"].endswith("failed"))
    assert other["id"] in failed["payload"]["reason"]


WEBHOOK = {**RUN, "kind": "call-webhook"}


@pytest.mark.parametrize("state", ["completed", "failed"])
async def test_a_webhook_is_executed_when_it_was_called(shop: Api, state: str) -> None:
    await put(shop, "t", WEBHOOK, announce=True)
    await go(shop, "7")
    assert short(await announced(shop)) == ["triggered", "action.triggered"]
    error = {} if state == "completed" else {"run_error": "HTTP 404"}
    await shop.end_attempt(await shop.claim(), state, **error)
    told = await announced(shop)
    name = {"completed": "executed", "failed": "failed"}[state]
    assert short(told)[2:] == [f"action.{name}"]
    assert told[2]["payload"].get("reason") == error.get("run_error")
    assert told[2]["related"] == told[1]["related"]


async def test_a_webhook_that_is_never_called_has_failed(shop: Api) -> None:
    await put(shop, "t", WEBHOOK, WEBHOOK, announce=True)
    await go(shop, "7")
    first, _ = await runs(shop)
    cancelled = await shop.client.post(f"/v1/runs/{first['id']}/cancel")
    assert cancelled.status_code == 200
    await shop.client.delete("/v1/triggers/t")
    assert (await shop.client.delete("/v1/deployments/ship")).status_code == 204
    failed = (await announced(shop))[3:]
    assert short(failed) == ["action.failed"] * 2
    assert [one["payload"]["reason"] for one in failed] == [
        "cancelled by request", "deployment deleted",
    ]  # fmt: skip


async def test_a_webhook_that_overlaps_or_cannot_be_rendered_has_failed(shop: Api) -> None:
    await shop.put("/v1/deployments/alone", {"runner": RUNNER, "overlap": "skip"})
    alone = {"type": "run", "deployment": "alone", "kind": "call-webhook"}
    await put(shop, "t", alone, {**WEBHOOK, "parameters": {"a": "{{ event.payload.no }}"}},
              announce=True, expect=["go", "again"])  # fmt: skip
    await go(shop, "7")
    assert Counter(short(await announced(shop))) == {
        "triggered": 1, "action.triggered": 2, "action.failed": 1,
    }  # fmt: skip
    await go(shop, "7", name="again")
    assert Counter(short(await announced(shop))) == {
        "triggered": 2, "action.triggered": 4, "action.failed": 3,
    }  # fmt: skip


async def test_a_webhook_that_is_taken_over_and_never_reported_on_has_failed(shop: Api) -> None:
    await put(shop, "t", WEBHOOK, announce=True)
    await go(shop, "7")
    await shop.end_attempt(await shop.claim(), "running")
    await shop.conn.execute("UPDATE run_queue SET lease_until = now() - interval '1 s'")
    assert await queue.fail_unreported(shop.conn, limit=10) == 1
    assert short(await announced(shop))[2:] == ["action.failed"]


async def test_a_catch_all_that_announces_does_not_hear_itself(shop: Api) -> None:
    await put(shop, "all", {"type": "nothing"}, announce=True, expect=["*"])
    await go(shop, "7")
    assert short(await announced(shop)) == ["triggered", "action.triggered", "action.executed"]


async def test_announcements_that_fire_their_own_trigger_come_to_an_end(shop: Api) -> None:
    await put(shop, "t", RUN, announce=True, expect=["go", "prefect.automation.triggered"])
    await go(shop, "7")
    depths = [
        row["depth"] for row in await shop.conn.fetch("SELECT depth FROM runs ORDER BY depth")
    ]
    assert depths == [0, 3, 6, 9, 12]
    told = [one["payload"]["depth"] for one in await announced(shop) if "triggered" in one["event"]]
    assert max(told) <= CHAIN_DEPTH_MAX
    *_, last = sorted(await runs(shop), key=lambda run: "loop" in str(run["error"]))
    assert (last["state"], last["error"].partition(":")[0]) == ("failed", "loop")


async def test_each_of_a_firings_announcements_is_one_of_a_few_links(shop: Api) -> None:
    await put(shop, "t", {"type": "nothing"}, announce=True, expect=["go", "prefect.automation.*"])
    await go(shop, "7")
    counted = await shop.conn.fetchval(
        "SELECT count(*) FROM events WHERE name = $1", ANNOUNCED + "triggered"
    )
    assert counted == 1 + 3 + 9 + 27


async def test_a_retry_renders_the_action_that_made_the_run(shop: Api) -> None:
    wrong = {"type": "run", "deployment": "bill", "parameters": {"n": "{{ event.payload.n }}"}}
    await put(shop, "t", RUN, wrong)
    await go(shop, "7")
    billed, _ = await runs(shop)
    assert billed["state"] == "failed"
    mended = {**wrong, "parameters": {"n": "{{ automation.name }}", "m": "{{ 1 + 1 }}"}}
    await put(shop, "t", RUN, mended, title="Mended")
    answer = await shop.client.post(f"/v1/runs/{billed['id']}/retry")
    assert answer.status_code == 200, answer.text
    template = await shop.conn.fetchval("SELECT template FROM runs WHERE id = $1", billed["id"])
    assert '"{{ automation.name }}"' in template
    assert '"Mended"' in template


async def test_a_retry_of_an_action_that_is_gone_says_so(shop: Api) -> None:
    wrong = {"type": "run", "deployment": "bill", "parameters": {"n": "{{ event.payload.n }}"}}
    await put(shop, "t", RUN, wrong)
    await go(shop, "7")
    billed, _ = await runs(shop)
    await put(shop, "t", RUN, {"type": "nothing"})
    answer = await shop.client.post(f"/v1/runs/{billed['id']}/retry")
    assert (answer.status_code, "no such action" in answer.json()["detail"]) == (409, True)


async def test_an_explanation_and_a_backtest_know_all_the_runs(shop: Api) -> None:
    bad = {"type": "run", "deployment": "bill", "parameters": {"n": "{{ event.payload.n }}"}}
    made = await put(shop, "t", {"type": "nothing"}, RUN, bad)
    (cause,) = await go(shop, "7")
    explained = await shop.get(f"/v1/triggers/t/explain/{cause}")
    assert set(explained["runs"]) == {run["id"] for run in await runs(shop)}
    asked = {name: made[name] for name in ("expect", "actions")}
    shop.clock.advance(timedelta(minutes=1))
    tried = await shop.client.post("/v1/triggers/backtest", json={"trigger": asked})
    assert tried.status_code == 200, tried.text
    (firing,) = tried.json()["items"]
    assert firing["parameters"] == {"user": "7"}
    assert firing["error"].startswith("actions.2: ")
