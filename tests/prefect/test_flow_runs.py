"""Runs of flows on `/api` and in `/v1`: the same row, whoever looks."""

import asyncio
import json
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import Api
from tests.prefect.runs import Flows, soon
from upshot.prefect.lost_runs import end_lost, watch

pytestmark = pytest.mark.anyio


@pytest.fixture
def flows(api: Api) -> Flows:
    return Flows(api)


async def names_told(flows: Flows) -> list[str]:
    return [event["name"] for event in await flows.told(prefix="prefect.flow-run.")]


async def test_a_run_goes_from_the_line_to_its_process_and_ends(flows: Flows) -> None:
    deployment = await flows.deployment(parameters={"x": 1, "y": 2})
    run_id = await flows.run(deployment, parameters={"x": 7}, name="first", tags=["t"])
    assert await flows.poll(deployment) == [run_id]
    assert (await flows.v1(run_id))["state"] == "scheduled"
    await flows.running(run_id)
    assert await flows.poll(deployment) == []
    assert (await flows.v1(run_id))["state"] == "running"
    answer = await flows.propose(run_id, "COMPLETED", data={"type": "reference", "key": "k"})
    assert answer["status"] == "ACCEPT"
    run = await flows.read(run_id)
    assert (run["name"], run["state_type"], run["run_count"]) == ("first", "COMPLETED", 1)
    assert run["parameters"] == {"x": 7, "y": 2}
    assert (run["deployment_id"], run["tags"]) == (deployment, ["t"])
    assert run["start_time"] <= run["end_time"]
    in_v1 = await flows.v1(run_id)
    assert (in_v1["state"], in_v1["deployment"]) == ("completed", "ship")
    assert in_v1["result"] == {"type": "reference", "key": "k"}
    (attempt,) = in_v1["attempts"]
    assert (attempt["outcome"], attempt["worker"]) == ("completed", "prefect")


async def test_every_transition_is_told_with_what_the_run_is_of(flows: Flows) -> None:
    deployment = await flows.deployment(tags=["blue"])
    run_id = await flows.running(await flows.run(deployment, name="first"))
    await flows.propose(run_id, "FAILED", message="boom")
    told = await flows.told(prefix="prefect.flow-run.")
    assert [event["name"].rpartition(".")[2] for event in told] == [
        "Scheduled", "Pending", "Running", "Failed",
    ]  # fmt: skip
    last = told[-1]
    assert last["resource_id"] == f"prefect.flow-run.{run_id}"
    labels, payload = json.loads(last["labels"]), json.loads(last["payload"])
    assert labels["prefect.resource.name"] == "first"
    assert labels["prefect.state-type"] == "FAILED"
    assert labels["prefect.state-message"] == "boom"
    assert payload["intended"] == {"from": "RUNNING", "to": "FAILED"}
    related = {
        (one["prefect.resource.role"], one["prefect.resource.id"])
        for one in json.loads(last["related"])
    }
    assert ("deployment", f"prefect.deployment.{deployment}") in related
    assert ("tag", "prefect.tag.blue") in related
    assert {role for role, _ in related} == {"flow", "deployment", "tag"}
    state = (await flows.read(run_id))["state"]
    assert str(last["id"]) == state["id"]
    ended = await flows.told(prefix="upshot.run.")
    assert [event["name"] for event in ended] == ["upshot.run.failed"]
    assert json.loads(ended[0]["payload"])["error"] == "boom"


async def test_a_trigger_can_wait_for_a_state_of_a_flows_run(flows: Flows) -> None:
    deployment = await flows.deployment()
    await flows.deployment("after", flow="after")
    made = await flows.api.put(
        "/v1/triggers/after",
        {
            "expect": ["prefect.flow-run.Completed"],
            "match_related": {"id": f"prefect.deployment.{deployment}", "role": "deployment"},
            "deployment": "after",
        },
    )
    assert made.is_success, made.text
    run_id = await flows.running(await flows.run(deployment))
    await flows.propose(run_id, "COMPLETED")
    await flows.api.evaluate()
    (caused,) = (await flows.api.get("/v1/runs", deployment="after"))["items"]
    seen = await flows.read(caused["id"])
    assert (seen["state_name"], seen["created_by"]["type"]) == ("Scheduled", "AUTOMATION")


async def test_a_run_that_a_trigger_made_is_begun_like_any(flows: Flows) -> None:
    deployment = await flows.deployment()
    await flows.api.put(
        "/v1/triggers/ship",
        {"expect": ["order"], "deployment": "ship", "parameters": {"id": "{{ event.id }}"}},
    )
    await flows.api.post_events({"event": "order", "resource": {"id": "o.1"}})
    await flows.api.evaluate()
    (run_id,) = await flows.poll(deployment)
    before = await flows.read(run_id)
    assert before["name"].count("-") == 1
    await flows.running(run_id)
    run = await flows.read(run_id)
    assert (run["name"], run["state_name"]) == (before["name"], "Running")
    states = await flows.api.get("/api/flow_run_states/", flow_run_id=run_id)
    assert [state["name"] for state in states] == ["Scheduled", "Pending", "Running"]
    assert states[0]["id"] == before["state_id"]


async def test_parameters_are_rendered_before_a_runner_has_the_run(flows: Flows) -> None:
    deployment = await flows.deployment()
    heavy = "{% for n in event.payload.list %}{{ n }},{% endfor %}"
    await flows.api.put(
        "/v1/triggers/ship",
        {"expect": ["order"], "deployment": "ship", "parameters": {"list": heavy}},
    )
    await flows.api.post_events(
        {"event": "order", "resource": {"id": "o.1"}, "payload": {"list": [1, 2]}},
        {"event": "order", "resource": {"id": "o.2"}, "payload": {}},
    )
    await flows.api.evaluate()
    outcomes = []
    for run_id in await flows.poll(deployment):
        status = await flows.status(run_id, "PENDING")
        run = await flows.read(run_id)
        outcomes.append((status, run["state_type"], run["parameters"]))
    assert sorted(outcomes, key=str) == [
        ("ACCEPT", "PENDING", {"list": "1,2,"}),
        ("REJECT", "FAILED", {}),
    ]


async def test_of_two_runners_that_ask_at_once_one_has_the_run(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.run(deployment)
    polls = await asyncio.gather(*(flows.poll(deployment) for _ in range(2)))
    assert polls == [[run_id], [run_id]]
    statuses = await asyncio.gather(*(flows.status(run_id, "PENDING") for _ in range(5)))
    assert sorted(statuses) == ["ABORT"] * 4 + ["ACCEPT"]
    assert (await flows.v1(run_id))["state"] == "running"


async def test_runners_together_do_not_take_more_than_there_is_room_for(flows: Flows) -> None:
    deployment = await flows.deployment(concurrency_limit=2)
    runs = [await flows.run(deployment) for _ in range(5)]
    assert len(await flows.poll(deployment)) == 2
    statuses = await asyncio.gather(*(flows.status(one, "PENDING") for one in runs))
    assert sorted(statuses) == ["ACCEPT"] * 2 + ["REJECT"] * 3
    assert await flows.poll(deployment) == []
    (begun, *_) = [one for one in runs if await flows.state(one) == "Pending"]
    await flows.propose(begun, "COMPLETED")
    assert len(await flows.poll(deployment)) == 1


async def test_a_disabled_deployment_hands_out_nothing_until_it_goes_on(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.run(deployment)
    path = "/v1/deployments/ship"
    assert (await flows.api.client.patch(path, json={"enabled": False})).status_code == 200
    assert await flows.poll(deployment) == []
    assert await flows.status(run_id, "PENDING") == "REJECT"
    await flows.post(f"/deployments/{deployment}/resume_deployment")
    assert await flows.poll(deployment) == [run_id]


async def test_a_run_may_be_scheduled_for_later(flows: Flows) -> None:
    deployment = await flows.deployment()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": soon(seconds=100)}}
    run_id = await flows.run(deployment, state=state)
    assert await flows.poll(deployment) == []
    assert await flows.poll(deployment, scheduled_before=soon(seconds=110)) == [run_id]
    assert (await flows.read(run_id))["next_scheduled_start_time"] is not None
    assert await flows.status(run_id, "PENDING") == "ACCEPT"
    waits = await flows.propose(run_id, "RUNNING")
    assert waits["status"] == "WAIT"
    assert 90 < waits["details"]["delay_seconds"] <= 100


async def test_a_run_that_nobody_begins_is_late(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.run(deployment)
    assert await flows.state(run_id) == "Scheduled"
    await flows.conn.execute(
        "UPDATE run_queue SET due_at = now() - interval '16 seconds' WHERE run_id = $1", run_id
    )
    assert await flows.state(run_id) == "Late"
    await flows.running(run_id)


async def test_a_flows_own_retries_go_on_in_its_process(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.run(deployment)
    await flows.propose(run_id, "PENDING")
    policy = {"retries": 1, "retry_delay": 0, "pause_keys": [], "resuming": False}
    answer = await flows.api.client.patch(
        f"/api/flow_runs/{run_id}", json={"empirical_policy": policy, "flow_version": "3"}
    )
    assert answer.status_code == 204
    await flows.propose(run_id, "RUNNING")
    again = await flows.propose(run_id, "FAILED", message="not yet")
    assert (again["status"], again["state"]["name"]) == ("REJECT", "AwaitingRetry")
    assert (await flows.v1(run_id))["state"] == "running"
    assert await flows.poll(deployment) == []
    assert await flows.status(run_id, "RUNNING") == "ACCEPT"
    assert await flows.status(run_id, "FAILED", message="for good") == "ACCEPT"
    in_v1 = await flows.v1(run_id)
    assert (in_v1["state"], in_v1["error"]) == ("failed", "for good")
    assert [attempt["outcome"] for attempt in in_v1["attempts"]] == ["failed"]
    run = await flows.read(run_id)
    assert (run["run_count"], run["flow_version"]) == (2, "3")


async def test_a_pause_in_its_process_keeps_the_run_there(flows: Flows) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    assert await flows.status(run_id, "PAUSED", details={"pause_key": "1"}) == "ACCEPT"
    assert (await flows.v1(run_id))["state"] == "running"
    assert (await flows.posted(f"/flow_runs/{run_id}/resume"))["status"] == "ACCEPT"
    run = await flows.read(run_id)
    assert (run["state_name"], run["run_count"]) == ("Running", 1)
    assert await flows.status(run_id, "PAUSED", details={"pause_key": "1"}) == "REJECT"
    refused = await flows.posted(f"/flow_runs/{run_id}/resume")
    assert refused["status"] == "ABORT"


async def suspended(flows: Flows, deployment: str, **details: Any) -> str:
    run_id = await flows.running(await flows.run(deployment))
    details = {"pause_reschedule": True, "pause_key": "1", **details}
    answer = await flows.propose(run_id, "PAUSED", name="Suspended", details=details)
    assert answer["status"] == "ACCEPT"
    return run_id


async def test_a_suspended_run_leaves_its_process_and_is_begun_anew(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await suspended(flows, deployment)
    in_v1 = await flows.v1(run_id)
    assert (in_v1["state"], in_v1["next_attempt_at"]) == ("retrying", None)
    assert [attempt["outcome"] for attempt in in_v1["attempts"]] == ["suspended"]
    assert await flows.poll(deployment, scheduled_before="2099-01-01T00:00:00Z") == []
    assert (await flows.posted(f"/flow_runs/{run_id}/resume"))["state"]["name"] == "Resuming"
    assert await flows.poll(deployment) == [run_id]
    await flows.running(run_id)
    assert (await flows.read(run_id))["run_count"] == 1
    await flows.propose(run_id, "COMPLETED")
    assert len((await flows.v1(run_id))["attempts"]) == 2


async def test_v1_resumes_a_suspended_run_by_retrying_it(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await suspended(flows, deployment)
    answer = await flows.api.client.post(f"/v1/runs/{run_id}/retry")
    assert answer.status_code == 200, answer.text
    assert await flows.state(run_id) == "Resuming"
    assert await flows.poll(deployment) == [run_id]


async def test_a_suspended_run_that_nobody_resumes_in_time_fails(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await suspended(flows, deployment, pause_timeout=soon(seconds=-1))
    patient = await suspended(flows, deployment, pause_timeout=soon(hours=1))
    assert await end_lost(flows.api.line.database) == 1
    run = await flows.read(run_id)
    assert (run["state_name"], run["state"]["message"]) == (
        "Failed",
        "The run was suspended and never resumed.",
    )
    assert await flows.state(patient) == "Suspended"


async def test_input_that_a_paused_run_waits_for_is_checked_and_kept(flows: Flows) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    keyset = {"schema": "s-1", "response": "r-1", "description": "d-1"}
    await flows.propose(run_id, "PAUSED", details={"run_input_keyset": keyset, "pause_key": "1"})
    resume = f"/flow_runs/{run_id}/resume"
    assert (await flows.posted(resume, {"run_input": {"n": 1}}))["status"] == "REJECT"
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    await flows.posted(f"/flow_runs/{run_id}/input", {"key": "s-1", "value": json.dumps(schema)})
    assert (await flows.posted(resume, {"run_input": {"n": "one"}}))["status"] == "REJECT"
    assert (await flows.posted(resume, {"run_input": {"n": 1}}))["status"] == "ACCEPT"
    kept = await flows.api.client.get(f"/api/flow_runs/{run_id}/input/r-1")
    assert kept.json() == {"n": 1}


async def test_a_run_that_nobody_works_on_is_cancelled_at_once(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.run(deployment)
    answer = await flows.propose(run_id, "CANCELLING")
    assert (answer["status"], answer["state"]["type"]) == ("REJECT", "CANCELLED")
    assert (await flows.v1(run_id))["state"] == "cancelled"
    assert await flows.poll(deployment) == []


async def test_a_running_run_is_cancelled_by_its_runner(flows: Flows) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    assert await flows.status(run_id, "CANCELLING") == "ACCEPT"
    wanted = {"state": {"type": {"any_": ["CANCELLING"]}}, "id": {"any_": [run_id]}}
    (found,) = await flows.posted("/flow_runs/filter", {"flow_runs": wanted})
    assert found["id"] == run_id
    assert "prefect.flow-run.Cancelling" in await names_told(flows)
    assert await flows.status(run_id, "CANCELLED", force=True) == "ACCEPT"
    in_v1 = await flows.v1(run_id)
    assert in_v1["state"] == "cancelled"
    assert [attempt["outcome"] for attempt in in_v1["attempts"]] == ["cancelled"]


async def test_a_runner_whose_run_was_cancelled_in_v1_is_told_to_stop(flows: Flows) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    assert (await flows.api.client.post(f"/v1/runs/{run_id}/cancel")).status_code == 200
    run = await flows.read(run_id)
    assert (run["state_name"], run["state"]["message"]) == ("Cancelled", "cancelled by request")
    assert await flows.status(run_id, "COMPLETED") == "ABORT"
    assert await flows.status(run_id, "RUNNING") == "ABORT"
    assert (await flows.v1(run_id))["state"] == "cancelled"


async def test_v1_retries_a_flows_run(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.running(await flows.run(deployment))
    await flows.propose(run_id, "CRASHED", message="gone")
    assert await flows.state(run_id) == "Crashed"
    assert (await flows.api.client.post(f"/v1/runs/{run_id}/retry")).status_code == 200
    assert await flows.state(run_id) == "Scheduled"
    assert await flows.poll(deployment) == [run_id]
    await flows.running(run_id)
    await flows.propose(run_id, "COMPLETED")
    attempts = (await flows.v1(run_id))["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["failed", "completed"]


async def test_the_client_retries_a_run_by_scheduling_it(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.running(await flows.run(deployment))
    await flows.propose(run_id, "FAILED", message="boom")
    assert await flows.status(run_id, "SCHEDULED", force=True) == "ACCEPT"
    assert (await flows.v1(run_id))["error"] is None
    assert await flows.poll(deployment) == [run_id]


async def test_a_process_that_is_not_heard_of_has_crashed(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.running(await flows.run(deployment))
    other = await flows.running(await flows.run(deployment))
    await flows.silence(run_id)
    assert await end_lost(flows.api.line.database) == 1
    run = await flows.read(run_id)
    assert run["state_type"] == "CRASHED"
    assert "vanished" in run["state"]["message"]
    in_v1 = await flows.v1(run_id)
    assert (in_v1["state"], [one["outcome"] for one in in_v1["attempts"]]) == ("failed", ["lost"])
    assert "prefect.flow-run.Crashed" in await names_told(flows)
    assert await flows.status(run_id, "COMPLETED") == "ABORT"
    assert await flows.state(other) == "Running"


async def test_a_process_that_vanishes_while_it_is_cancelled_leaves_a_cancelled_run(
    flows: Flows,
) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    await flows.propose(run_id, "CANCELLING")
    await flows.silence(run_id)
    assert await end_lost(flows.api.line.database) == 1
    assert (await flows.v1(run_id))["state"] == "cancelled"


async def test_polls_and_states_prolong_the_lease(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.running(await flows.run(deployment))

    async def lease_until() -> datetime:
        until: datetime = await flows.conn.fetchval(
            "SELECT lease_until FROM run_queue WHERE run_id = $1", run_id
        )
        return until

    fresh = await lease_until()
    await flows.poll(deployment)
    assert await lease_until() == fresh
    await flows.silence(run_id)
    await flows.poll(str(uuid4()))
    assert await end_lost(flows.api.line.database) == 1


@pytest.mark.parametrize("heard", ["poll", "state"])
async def test_who_is_heard_of_again_has_not_crashed(flows: Flows, heard: str) -> None:
    deployment = await flows.deployment()
    run_id = await flows.running(await flows.run(deployment))
    await flows.silence(run_id)
    if heard == "poll":
        await flows.poll(deployment)
    else:
        await flows.propose(run_id, "RUNNING")
    assert await end_lost(flows.api.line.database) == 0


async def test_an_ad_hoc_run_is_its_clients(flows: Flows) -> None:
    run_id = await flows.ad_hoc("My flow", parameters={"x": 1})
    run = await flows.read(run_id)
    assert (run["state_name"], run["deployment_id"], run["parameters"]) == (
        "Pending",
        None,
        {"x": 1},
    )
    in_v1 = await flows.v1(run_id)
    assert (in_v1["state"], in_v1["deployment"]) == ("running", "My-flow")
    assert await flows.status(run_id, "RUNNING") == "ACCEPT"
    assert await flows.status(run_id, "COMPLETED") == "ACCEPT"
    assert (await flows.v1(run_id))["state"] == "completed"
    assert await flows.status(run_id, "SCHEDULED", force=True) == "ABORT"
    retried = await flows.api.client.post(f"/v1/runs/{run_id}/retry")
    assert retried.status_code == 409
    failed = await flows.ad_hoc("My flow")
    await flows.propose(failed, "FAILED", message="boom")
    assert await flows.status(failed, "RUNNING") == "ACCEPT"
    assert (await flows.v1(failed))["state"] == "running"


async def test_a_run_without_its_deployment_takes_no_room_of_one_of_that_name(
    flows: Flows,
) -> None:
    deployment = await flows.deployment(concurrency_limit=1)
    ad_hoc = await flows.ad_hoc()
    assert (await flows.v1(ad_hoc))["deployment"] == "ship"
    assert (await flows.read(ad_hoc))["deployment_id"] is None
    run_id = await flows.run(deployment)
    assert await flows.poll(deployment) == [run_id]
    await flows.running(run_id)


async def test_a_subflow_belongs_to_its_parents_run(flows: Flows) -> None:
    parent = await flows.running(await flows.run(await flows.deployment()))
    keys = {"task_key": "child", "dynamic_key": "0"}
    task = await flows.posted("/task_runs/", {"flow_run_id": parent, **keys})
    child = await flows.ad_hoc("child", parent_task_run_id=task["id"])
    assert (await flows.v1(child))["deployment"] == "ship"
    assert await flows.status(child, "RUNNING") == "ACCEPT"
    suspend = {"name": "Suspended", "details": {"pause_reschedule": True}}
    assert await flows.status(child, "PAUSED", **suspend) == "ABORT"
    await flows.propose(child, "COMPLETED")
    seen = await flows.api.get(f"/api/task_runs/{task['id']}")
    assert seen["state_type"] == "COMPLETED"
    assert seen["state"]["state_details"]["child_flow_run_id"] == child
    for wanted in (
        {"parent_task_run_id": {"any_": [task["id"]]}},
        {"parent_flow_run_id": {"any_": [parent]}},
    ):
        found = await flows.posted("/flow_runs/filter", {"flow_runs": wanted})
        assert [run["id"] for run in found] == [child]


async def test_an_idempotency_key_makes_one_run(flows: Flows) -> None:
    deployment = await flows.deployment()
    path = f"/deployments/{deployment}/create_flow_run"
    answers = [await flows.post(path, {"idempotency_key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_parameters_keep_an_enforced_schema(flows: Flows) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    deployment = await flows.deployment(
        parameter_openapi_schema=schema, enforce_parameter_schema=True
    )
    path = f"/deployments/{deployment}/create_flow_run"
    refused = await flows.post(path, {"parameters": {"x": "one"}})
    assert refused.status_code == 409
    assert "x" in refused.json()["detail"]
    given = {"parameters": {"x": "one"}, "enforce_parameter_schema": False}
    assert (await flows.post(path, given)).status_code == 201


async def test_what_looks_like_a_template_in_parameters_is_text(flows: Flows) -> None:
    deployment = await flows.deployment(parameters={"a": "{{ event.id }}"})
    run_id = await flows.run(deployment, parameters={"b": "{% if %}"})
    assert (await flows.read(run_id))["parameters"] == {"a": "{{ event.id }}", "b": "{% if %}"}


async def test_a_message_that_the_database_cannot_keep_ends_the_run_all_the_same(
    flows: Flows,
) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    body = (
        b'{"state": {"type": "FAILED", "message": "a\\u0000b\\ud800c", '
        b'"data": {"n": NaN, "m": 1e999}}, "force": false}'
    )
    answer = await flows.api.client.post(
        f"/api/flow_runs/{run_id}/set_state",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 201, answer.text
    assert (await flows.v1(run_id))["error"] == "a\ufffdb\ufffdc"


async def test_a_long_message_is_cut(flows: Flows) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    assert await flows.status(run_id, "FAILED", message="x" * 1_000_000) == "ACCEPT"
    assert len((await flows.v1(run_id))["error"]) == 16_384


async def test_a_run_is_deleted_with_all_that_is_known_of_it(flows: Flows) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    answer = await flows.api.client.delete(f"/api/flow_runs/{run_id}")
    assert answer.status_code == 204
    assert (await flows.api.client.get(f"/api/flow_runs/{run_id}")).status_code == 404
    assert (await flows.api.client.get(f"/v1/runs/{run_id}")).status_code == 404
    assert "prefect.flow-run.Cancelled" in await names_told(flows)
    assert (await flows.post(f"/flow_runs/{run_id}/set_state", {"state": {"type": "RUNNING"}})
            ).status_code == 404  # fmt: skip


async def test_labels_are_added(flows: Flows) -> None:
    run_id = await flows.ad_hoc(labels={"a": "1"})
    for labels in ({"b": 2}, {"a": "3"}):
        answer = await flows.api.client.patch(f"/api/flow_runs/{run_id}/labels", json=labels)
        assert answer.status_code == 204
    assert (await flows.read(run_id))["labels"] == {"a": "3", "b": 2}


async def test_a_run_is_changed_where_something_is_sent(flows: Flows) -> None:
    run_id = await flows.ad_hoc(parameters={"x": 1}, tags=["a"])
    for change in ({"name": "renamed"}, {"tags": ["b"]}, {"parameters": {"x": 2}}):
        answer = await flows.api.client.patch(f"/api/flow_runs/{run_id}", json=change)
        assert answer.status_code == 204, answer.text
    run = await flows.read(run_id)
    assert (run["name"], run["tags"], run["parameters"]) == ("renamed", ["b"], {"x": 2})
    assert run["state_name"] == "Pending"


async def test_a_worker_of_v1_may_have_a_flows_run(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.run(deployment)
    claimed = await flows.api.client.post("/v1/runs/claim", json={"worker": "w", "wait": 0})
    (taken,) = claimed.json()["items"]
    assert taken["run_id"] == run_id
    assert await flows.state(run_id) == "Running"
    assert await flows.status(run_id, "PENDING") == "ABORT"
    assert await flows.status(run_id, "COMPLETED") == "ABORT"
    report = {"lease": taken["lease"], "state": "completed"}
    assert (await flows.api.client.patch(f"/v1/runs/{run_id}", json=report)).status_code == 200
    assert await flows.state(run_id) == "Completed"


async def test_a_run_whose_deployment_goes_is_cancelled(flows: Flows) -> None:
    deployment = await flows.deployment()
    run_id = await flows.running(await flows.run(deployment))
    answer = await flows.api.client.delete(f"/api/deployments/{deployment}")
    assert answer.status_code == 204, answer.text
    run = await flows.read(run_id)
    assert (run["state_type"], run["deployment_id"]) == ("CANCELLED", deployment)
    assert await flows.status(run_id, "COMPLETED") == "ABORT"
    assert await flows.status(run_id, "SCHEDULED") == "ABORT"
    assert await flows.poll(deployment) == []


async def test_runs_are_found_by_what_they_are(flows: Flows) -> None:
    deployment = await flows.deployment()
    waiting = await flows.run(deployment, name="waits", tags=["a"])
    running = await flows.running(await flows.run(deployment, name="runs"))
    alone = await flows.ad_hoc("other", name="alone")
    await flows.propose(alone, "FAILED", message="boom")

    async def found(**body: Any) -> list[str]:
        listed = await flows.posted("/flow_runs/filter", body)
        assert await flows.posted("/flow_runs/count", body) == len(listed)
        return [run["id"] for run in listed]

    assert await found() == [alone, running, waiting]
    states = {"state": {"type": {"any_": ["SCHEDULED", "RUNNING"]}}}
    assert await found(flow_runs=states) == [running, waiting]
    assert await found(flow_runs={"state": {"name": {"any_": ["Failed"]}}}) == [alone]
    assert await found(flow_runs={"name": {"like_": "WAIT"}}) == [waiting]
    assert await found(flow_runs={"tags": {"all_": ["a"]}}) == [waiting]
    assert await found(flow_runs={"deployment_id": {"is_null_": True}}) == [alone]
    assert await found(flow_runs={"deployment_id": {"any_": [deployment]}}) == [running, waiting]
    assert await found(flows={"name": {"any_": ["other"]}}) == [alone]
    assert await found(deployments={"name": {"any_": ["ship"]}}) == [running, waiting]
    assert await found(flow_runs={"id": {"not_any_": [alone, waiting]}}) == [running]
    either = {"operator": "or_", "name": {"any_": ["runs"]}, "id": {"any_": [alone]}}
    assert await found(flow_runs=either) == [alone, running]
    assert await found(flow_runs={"end_time": {"is_null_": False}}) == [alone]
    assert await found(flow_runs={"start_time": {"after_": soon(hours=1)}}) == []
    by_name = await flows.posted("/flow_runs/filter", {"sort": "NAME_ASC", "limit": 2, "offset": 1})
    assert [run["name"] for run in by_name] == ["runs", "waits"]
    page = await flows.posted("/flow_runs/paginate", {"limit": 2, "page": 2})
    assert (page["count"], page["pages"], [run["id"] for run in page["results"]]) == (
        3,
        2,
        [waiting],
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/flow_runs/filter", {"flow_runs": {"id": {"any_": ["x"]}}}),
        ("/flow_runs/filter", {"limit": 201}),
        ("/flow_runs/filter", {"offset": 2**70}),
        ("/flow_runs/filter", {"sort": "BY_MOOD"}),
        ("/flow_runs/filter", {"work_pools": {"name": {"any_": ["p"]}}}),
        ("/flow_runs", {"flow_id": "x"}),
        ("/flow_runs", {"flow_id": str(uuid4())}),
        ("/deployments/get_scheduled_flow_runs", {"deployment_ids": "all"}),
        ("/deployments/get_scheduled_flow_runs", {"deployment_ids": [], "limit": -1}),
        ("/deployments/get_scheduled_flow_runs",
         {"deployment_ids": [], "scheduled_before": "99999-01-01T00:00:00Z"}),
        (f"/deployments/{uuid4()}/create_flow_run", {}),
        (f"/flow_runs/{uuid4()}/set_state", {"state": {"type": "RUNNING"}}),
        (f"/flow_runs/{uuid4()}/set_state", {"state": {"type": "MOODY"}}),
        (f"/flow_runs/{uuid4()}/set_state", ["RUNNING"]),
        (f"/flow_runs/{uuid4()}/resume", {}),
        ("/flow_runs/x/set_state", {"state": {"type": "RUNNING"}}),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_and_says_why(flows: Flows, path: str, body: Any) -> None:
    answer = await flows.post(path, body)
    assert answer.status_code in (404, 422), answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "state",
    [
        {"type": "SCHEDULED", "state_details": {"scheduled_time": "0001-01-01T00:00:00Z"}},
        {"type": "SCHEDULED", "state_details": {"scheduled_time": "next week"}},
        {"type": "RUNNING", "name": ""},
        {"type": "RUNNING", "name": "n" * 129},
        {"type": "RUNNING", "data": ["x" * 300_000]},
        {"type": "RUNNING", "state_details": {"transition_id": 7}},
        {"type": "PAUSED", "state_details": {"pause_timeout": "9999-01-01T00:00:00Z"}},
        {"type": "PAUSED", "state_details": {"pause_key": "k" * 129}},
    ],
)
async def test_states_that_make_no_sense_are_refused(flows: Flows, state: Any) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    answer = await flows.post(f"/flow_runs/{run_id}/set_state", {"state": state})
    assert answer.status_code == 422, answer.text
    assert await flows.state(run_id) == "Running"


async def test_a_run_of_its_own_does_not_wait_for_a_runner(flows: Flows) -> None:
    body = {"flow_id": await flows.flow(), "state": {"type": "SCHEDULED"}}
    answer = await flows.post("/flow_runs", body)
    assert answer.status_code == 422
    assert "create_flow_run" in answer.json()["detail"]


async def test_the_states_of_a_run_can_be_read(flows: Flows) -> None:
    run_id = await flows.ad_hoc()
    await flows.propose(run_id, "RUNNING")
    states = await flows.api.get("/api/flow_run_states/", flow_run_id=run_id)
    assert [state["type"] for state in states] == ["PENDING", "RUNNING"]
    one = await flows.api.get(f"/api/flow_run_states/{states[0]['id']}")
    assert one == states[0]
    unknown = await flows.api.client.get(f"/api/flow_run_states/{uuid4()}")
    assert unknown.status_code == 404


async def test_after_a_start_of_the_server_processes_have_time_to_be_heard_of(
    flows: Flows,
) -> None:
    run_id = await flows.running(await flows.run(await flows.deployment()))
    await flows.silence(run_id)
    stopping = asyncio.Event()
    woken: list[str] = []
    seen: list[tuple[float, str]] = []

    async def pause(seconds: float) -> None:
        seen.append((seconds, await flows.state(run_id)))
        if len(seen) == 2:
            stopping.set()

    await watch(flows.api.line.database, wake=woken.append, pause=pause, stopping=stopping)
    assert seen == [(60.0, "Running"), (5.0, "Crashed")]
    assert woken == ["evaluate", "deliver"]
