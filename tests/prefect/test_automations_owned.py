"""Automations of an owner, which `flow.serve` deletes and makes anew whenever it starts."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.api.conftest import Api
from tests.prefect.automations import TRIGGER, deployment, make, named, run
from upshot.pipeline import maintain
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio


class Owner:
    """A runner that makes its automations anew each time it starts."""

    def __init__(self, api: Api, database: Database, resource: str) -> None:
        self.api = api
        self.database = database
        self.resource = resource

    async def starts(self, *automations: dict[str, Any]) -> list[str]:
        """The ids of its automations."""
        await self.deletes()
        return [
            (await make(self.api, owner_resource=self.resource, **one))["id"] for one in automations
        ]

    async def deletes(self) -> None:
        answer = await self.api.client.delete(f"/api/automations/owned-by/{self.resource}")
        assert (answer.status_code, answer.json()) == (202, None)

    async def time_is_over(self) -> int:
        """End what it has given up, as if the time for it had passed; how many those were."""
        await self.api.conn.execute("UPDATE automations SET ends_at = now() WHERE ends_at > now()")
        return await maintain.end_automations(self.database, lambda: None)


@pytest.fixture
def owner(api: Api, database: Database) -> Owner:
    return Owner(api, database, f"prefect.deployment.{uuid4()}")


async def test_a_restart_of_the_owner_keeps_open_keys_and_fires_once(
    api: Api, owner: Owner
) -> None:
    shop = {"actions": [run(await deployment(api))]}
    (before,) = await owner.starts(shop)
    await api.post_events({"event": "order.created", "resource": {"id": "123"}})
    await api.evaluate()
    (after,) = await owner.starts(shop)
    assert after == before
    assert await owner.time_is_over() == 0
    await api.post_events({"event": "order.complete", "resource": {"id": "123"}})
    await api.evaluate()
    assert len((await api.get("/v1/runs"))["items"]) == 1


async def test_an_event_between_deletion_and_return_is_not_lost(api: Api, owner: Owner) -> None:
    shop = {"actions": [run(await deployment(api))]}
    await owner.starts(shop)
    await api.post_events({"event": "order.created", "resource": {"id": "123"}})
    await owner.deletes()
    await api.post_events({"event": "order.complete", "resource": {"id": "123"}})
    await owner.starts(shop)
    await api.evaluate()
    assert len((await api.get("/v1/runs"))["items"]) == 1


async def test_what_an_owner_has_deleted_is_gone_from_every_list(api: Api, owner: Owner) -> None:
    (mine,) = await owner.starts({"name": "mine"})
    await make(api, name="another's", owner_resource="another")
    await owner.deletes()
    assert await named(api) == ["another's"]
    assert (await api.client.post("/api/automations/count")).json() == 1
    assert (await api.client.get(f"/api/automations/{mine}")).status_code == 404
    assert await api.get(f"/api/automations/related-to/{owner.resource}") == []


async def test_what_the_owner_does_not_make_again_ends(api: Api, owner: Owner) -> None:
    one = {"name": "one", "actions": [run(await deployment(api))]}
    other = {**one, "name": "other", "trigger": {"expect": ["other"]}}
    kept, _ = await owner.starts(one, other)
    assert await owner.starts(one) == [kept]
    assert await owner.time_is_over() == 1
    assert [(await api.get("/v1/triggers"))["items"][0]["id"]] == [kept]
    await api.post_events({"event": "other", "resource": {"id": "1"}})
    await api.evaluate()
    assert (await api.get("/v1/runs"))["items"] == []
    assert await owner.time_is_over() == 0


async def test_nothing_ends_before_its_time(api: Api, owner: Owner) -> None:
    await owner.starts({})
    await owner.deletes()
    assert await maintain.end_automations(owner.database, lambda: None) == 0
    left: timedelta = await api.conn.fetchval("SELECT ends_at - now() FROM automations")
    assert timedelta(seconds=30) < left <= timedelta(seconds=60)
    # Once the owner is making its automations, those that are left have not long to wait.
    await make(api, owner_resource=owner.resource, trigger={"expect": ["new"]})
    left = await api.conn.fetchval("SELECT ends_at - now() FROM automations WHERE ends_at > now()")
    assert left <= timedelta(seconds=5)


async def test_a_runner_that_asks_for_runs_has_made_its_automations(api: Api) -> None:
    shop = uuid4()
    await make(api, owner_resource=f"prefect.deployment.{shop}")
    await api.client.delete(f"/api/automations/owned-by/prefect.deployment.{shop}")
    answer = await api.client.post(
        "/api/deployments/get_scheduled_flow_runs", json={"deployment_ids": [str(shop)]}
    )
    assert answer.status_code == 200, answer.text
    left: timedelta = await api.conn.fetchval("SELECT ends_at - now() FROM automations")
    assert left <= timedelta(seconds=5)


async def test_other_parameters_keep_the_keys_and_another_condition_begins_anew(
    api: Api, owner: Owner
) -> None:
    shop = await deployment(api)
    (before,) = await owner.starts({"actions": [run(shop)]})
    (after,) = await owner.starts({"actions": [run(shop, parameters={"n": 2})], "name": "renamed"})
    assert after == before
    shown = await api.get(f"/api/automations/{after}")
    assert (shown["name"], shown["actions"][0]["parameters"]) == ("renamed", {"n": 2})
    (new,) = await owner.starts({"trigger": {**TRIGGER, "threshold": 2}})
    assert new != before
    assert await owner.time_is_over() == 1


async def test_of_several_alike_each_goes_on_as_itself(api: Api, owner: Owner) -> None:
    shop = await deployment(api)
    one = {"actions": [run(shop, parameters={"n": 1})]}
    other = {"actions": [run(shop, parameters={"n": 2})]}
    first, second = await owner.starts(one, other)
    assert await owner.starts(other, one) == [second, first]


async def test_a_paused_automation_is_in_force_again_after_a_restart(
    api: Api, owner: Owner
) -> None:
    (made,) = await owner.starts({})
    await api.client.patch(f"/api/automations/{made}", json={"enabled": False})
    assert await owner.starts({}) == [made]
    assert (await api.get(f"/api/automations/{made}"))["enabled"]


async def test_two_processes_of_one_owner_that_start_at_once_make_one(
    api: Api, owner: Owner
) -> None:
    await owner.starts({})
    await owner.deletes()
    await owner.deletes()
    made = [(await make(api, owner_resource=owner.resource))["id"] for _ in range(2)]
    assert made[0] == made[1]
    assert await named(api) == ["order complete"]


async def test_automations_of_nobody_may_be_the_same(api: Api) -> None:
    assert (await make(api))["id"] != (await make(api))["id"]


async def test_deleting_wakes_the_evaluator_once_it_is_so(api: Api, owner: Owner) -> None:
    (made,) = await owner.starts({})
    await owner.deletes()
    woken: list[str] = []
    await api.conn.execute("UPDATE automations SET ends_at = now()")
    await maintain.end_automations(owner.database, lambda: woken.append("evaluate"))
    assert woken == ["evaluate"]
    deleted = await api.conn.fetchval(
        "SELECT resource_id FROM events WHERE name = 'upshot.trigger.deleted'"
    )
    assert deleted == f"upshot.trigger.{UUID(made)}"
