"""Deployments, triggers, events and runs, by command against a real server."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.cli.conftest import Command, write
from tests.e2e.server import Server
from tests.receiver import Receiver, reply

pytestmark = pytest.mark.anyio

TRIGGER = """\
name: order-complete
deployment: post-order-complete
after: order.created
expect: order.complete
for_each: id
parameters:
  user_id: "{{ event.resource.id }}"
"""


def deployment(url: str) -> str:
    return f"name: post-order-complete\nrunner: {{type: webhook, url: '{url}', retries: []}}\n"


@pytest.fixture
async def runner() -> AsyncIterator[Receiver]:
    async with Receiver(reply(500), reply(200)) as runner:
        yield runner


@pytest.fixture
async def shop(server: Server, upshot: Command, runner: Receiver) -> Command:
    """The command on a server that has the shop's deployment and trigger."""
    await apply(upshot, "deployment", deployment(runner.url))
    await apply(upshot, "trigger", TRIGGER)
    return upshot


async def apply(upshot: Command, noun: str, text: str, *options: str) -> str:
    write("definition.yaml", text)
    ended = await upshot.beside(noun, "apply", "-f", "definition.yaml", *options)
    assert ended.code == 0, ended.err
    return ended.out


async def emit(upshot: Command, event: str, resource: str) -> Any:
    ended = await upshot.beside("event", "emit", event, "--resource", resource, "--wait", "--json")
    assert ended.code == 0, ended.err
    return ended.json


async def json_of(upshot: Command, *arguments: str) -> Any:
    ended = await upshot.beside(*arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.json


async def test_the_shops_story_can_be_told_by_command_alone(
    shop: Command, server: Server, runner: Receiver
) -> None:
    assert (await emit(shop, "order.created", "id=123"))["runs"] == []
    assert (await emit(shop, "order.created", "id=456"))["runs"] == []
    result = await emit(shop, "order.complete", "id=123")
    (made,) = result["runs"]
    failed = await server.api.ended(made["id"])
    assert failed["state"] == "failed"

    page = await shop.beside("run", "show", made["id"])
    for words in ("failed", '{"user_id": "123"}', "prefect.resource.id=123", "500"):
        assert words in page.out
    assert (await shop.beside("run", "retry", made["id"])).code == 0
    assert (await server.api.ended(made["id"]))["state"] == "completed"
    assert [run["id"] for run in await json_of(shop, "run", "list", "--state", "completed")] == [
        made["id"]
    ]
    assert await json_of(shop, "run", "list", "--state", "failed") == []
    assert await json_of(shop, "run", "list", "--trigger", "other") == []
    assert made["id"] in (await shop.beside("run", "list", "--since", "1h")).out
    assert made["id"] in (await shop.beside("event", "show", result["id"])).out
    again = await shop.beside("run", "retry", made["id"])
    assert (again.code, made["id"] in again.err) == (1, True)
    assert len(runner.calls) == 2


async def test_runs_are_retried_by_what_they_have_in_common(
    shop: Command, server: Server, runner: Receiver
) -> None:
    for user in ("1", "2"):
        await emit(shop, "order.created", f"id={user}")
        (made,) = (await emit(shop, "order.complete", f"id={user}"))["runs"]
        await server.api.ended(made["id"])
    of_it = ("--deployment", "post-order-complete", "--since", "1h")
    again = await shop.beside("run", "retry", *of_it)
    assert (again.code, again.out) == (0, "1 runs begin again.\n")
    for run in await json_of(shop, "run", "list"):
        assert (await server.api.ended(run["id"]))["state"] == "completed"
    none = await shop.beside("run", "retry", *of_it, "--json")
    assert none.json == {"retried": 0, "not_retried": []}
    for neither_or_both in ((), (made["id"], *of_it)):
        assert (await shop.beside("run", "retry", *neither_or_both)).code == 2


async def test_applying_says_what_it_did(shop: Command, runner: Receiver) -> None:
    assert await apply(shop, "trigger", TRIGGER) == "order-complete: unchanged\n"
    await emit(shop, "order.created", "id=1")
    described = f"{TRIGGER}description: By command\n"
    assert await apply(shop, "trigger", described) == "order-complete: changed (1 open keys kept)\n"
    other = described.replace("expect: order.complete", "expect: order.paid")
    assert (
        await apply(shop, "trigger", other, "--keep-keys")
        == "order-complete: changed (1 open keys kept)\n"
    )
    assert await apply(shop, "trigger", described) == (
        "order-complete: changed (1 open keys forgotten)\n"
    )
    assert await apply(shop, "deployment", deployment(runner.url)) == (
        "post-order-complete: unchanged\n"
    )
    with_header = deployment(runner.url).replace("retries: []", "headers: {x-shop: hush}")
    assert await apply(shop, "deployment", with_header) == "post-order-complete: changed\n"
    assert await apply(shop, "deployment", with_header) == "post-order-complete: replaced\n"


async def test_what_cannot_be_applied_is_named_and_what_came_before_it_stays(
    shop: Command,
) -> None:
    write("two.yaml", f"{TRIGGER}---\nname: second\ndeployment: nowhere\ntreshold: 3\n")
    ended = await shop.beside("trigger", "apply", "-f", "two.yaml")
    assert ended.code == 1
    assert ended.out == "order-complete: unchanged\n"
    assert "second: treshold: Unknown field; did you mean 'threshold'?" in ended.err


async def test_a_definition_can_come_by_standard_input(shop: Command) -> None:
    text = TRIGGER.replace("order-complete\nd", "second\nd")
    ended = await shop.beside("trigger", "apply", "-f", "-", stdin=text)
    assert ended.out == "second: created\n"
    names = [one["name"] for one in await json_of(shop, "trigger", "list")]
    assert names == ["order-complete", "second"]


async def test_a_trigger_with_actions_is_listed_with_what_it_does(shop: Command) -> None:
    actions = [
        {"type": "run", "deployment": "post-order-complete"}, {"type": "run"}, {"type": "pause"},
    ]  # fmt: skip
    document = {"name": "several", "expect": ["go"], "actions": actions}
    assert await apply(shop, "trigger", json.dumps(document)) == "several: created\n"
    listed = (await shop.beside("trigger", "list")).out
    assert "post-order-complete, inferred, pause" in listed
    assert "pause" in (await shop.beside("trigger", "show", "several")).out


async def test_a_disabled_trigger_sees_nothing_until_it_is_enabled(shop: Command) -> None:
    await emit(shop, "order.created", "id=1")
    assert (await shop.beside("trigger", "disable", "order-complete")).code == 0
    assert (await emit(shop, "order.complete", "id=1"))["runs"] == []
    assert (await shop.beside("trigger", "enable", "order-complete")).code == 0
    assert len((await emit(shop, "order.complete", "id=1"))["runs"]) == 1


async def test_things_are_shown_and_deleted_by_name(shop: Command) -> None:
    assert "{{ event.resource.id }}" in (await shop.beside("trigger", "show", "order-complete")).out
    assert "runner url" in (await shop.beside("deployment", "show", "post-order-complete")).out
    assert "order-complete" in (await shop.beside("trigger", "list")).out
    assert "post-order-complete" in (await shop.beside("deployment", "list")).out
    in_use = await shop.beside("deployment", "delete", "post-order-complete")
    assert (in_use.code, "'order-complete'" in in_use.err) == (1, True)
    for noun, name in (("trigger", "order-complete"), ("deployment", "post-order-complete")):
        assert (await shop.beside(noun, "delete", name)).out == f"{name}: deleted\n"
        gone = await shop.beside(noun, "show", name)
        assert (gone.code, f"There is no {noun} '{name}'" in gone.err) == (1, True)
    assert "There are no triggers." in (await shop.beside("trigger", "list")).err


async def test_a_run_that_is_asked_for_can_be_cancelled(shop: Command, server: Server) -> None:
    await server.api.send("PATCH", "/v1/deployments/post-order-complete", {"enabled": False})
    made = await json_of(
        shop, "deployment", "run", "post-order-complete", "--parameters", '{"user_id": "7"}'
    )
    assert (made["state"], made["parameters"]) == ("scheduled", {"user_id": "7"})
    assert (await shop.beside("run", "cancel", made["id"])).out == f"{made['id']}: cancelled\n"
    bad = await shop.beside("deployment", "run", "post-order-complete", "--parameters", "[]")
    assert (bad.code, "is no JSON object" in bad.err) == (1, True)


async def test_an_event_is_sent_with_everything_that_was_said(shop: Command) -> None:
    write("payload.json", '{"weight": 2.50}')
    ended = await shop.beside(
        *("event", "emit", "parcel.sent", "--json"),
        *("--resource", "id=p-1", "--resource", "name=A = B"),
        *("--related", "role=customer,id=123", "--related", "role=shop,id=9"),
        *("--payload", "@payload.json", "--occurred", "2026-01-31T12:00:00Z"),
        *("--id", "0199c5a0-0000-7000-8000-000000000001"),
    )
    assert ended.code == 0, ended.err
    event = await json_of(shop, "event", "show", ended.json["id"])
    assert event["id"] == "0199c5a0-0000-7000-8000-000000000001"
    assert event["resource"] == {"prefect.resource.id": "p-1", "prefect.resource.name": "A = B"}
    assert event["related"] == [
        {"prefect.resource.role": "customer", "prefect.resource.id": "123"},
        {"prefect.resource.role": "shop", "prefect.resource.id": "9"},
    ]
    assert event["payload"] == {"weight": 2.5}
    assert event["occurred"].startswith("2026-01-31T12:00:00")


async def test_an_event_that_is_refused_is_an_error_that_says_where(shop: Command) -> None:
    ended = await shop.beside("event", "emit", "a", "--resource", "name=x")
    assert ended.code == 1
    assert "resource.prefect.resource.id" in ended.err
    bad = await shop.beside("event", "emit", "a", "--resource", "id=1", "--payload", "{")
    assert (bad.code, "--payload cannot be read as JSON" in bad.err) == (1, True)


async def test_labels_without_a_value_are_an_error_of_usage(upshot: Command) -> None:
    assert upshot("event", "emit", "a", "--resource", "123").code == 2
    assert upshot("event", "emit", "a", "--resource", "id=1", "--related", "customer").code == 2
    assert upshot("event", "list", "--since", "yesterday").code == 2
    assert upshot("run", "list", "--state", "done").code == 2


async def test_events_are_listed_by_name_and_resource_over_several_pages(
    shop: Command, server: Server
) -> None:
    posted = [{"event": f"a.{n}", "resource": {"id": str(n % 2)}} for n in range(600)]
    await server.api.post(*posted)
    assert len(await json_of(shop, "event", "list", "--event", "a.*", "--limit", "550")) == 550
    assert len(await json_of(shop, "event", "list", "--event", "a.*", "--limit", "1000")) == 600
    odd = await json_of(shop, "event", "list", "--event", "a.*", "--resource", "1", "--limit", "3")
    assert [one["event"] for one in odd] == ["a.599", "a.597", "a.595"]
    only = await json_of(
        shop, "event", "list", "--event", "a.*", "--event", "!a.5*", "--limit", "1"
    )
    assert only[0]["event"] == "a.499"


async def test_the_status_says_how_far_the_server_is(shop: Command) -> None:
    await emit(shop, "order.created", "id=1")
    status = await json_of(shop, "status")
    assert status["lag_seconds"] == 0
    assert status["triggers"] == 1
    page = (await shop.beside("status")).out
    assert "lag seconds" in page
    assert "runs scheduled" in page


async def test_once_there_is_a_key_the_command_needs_one(
    server: Server, upshot: Command, database_url: str
) -> None:
    upshot.set(UPSHOT_DATABASE_URL=database_url)
    made = await upshot.beside("key", "create", "--name", "me", "--scope", "read", "--json")
    unknown = await upshot.beside("status", "--key", "upk_no")
    token = made.json["token"]
    assert (await upshot.beside("status", "--key", token)).code == 0
    upshot.set(UPSHOT_API_KEY=token)
    refused = await upshot.beside("trigger", "delete", "x")
    assert (refused.code, "lacks the scope 'admin'" in refused.err) == (1, True)
    assert unknown.code in (0, 1)
