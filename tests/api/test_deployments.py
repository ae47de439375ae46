"""Deployments: made, changed, hidden secrets, deleted, run on demand."""

from typing import Any

import pytest

from tests.api.conftest import RUNNER, SHOP, Api

pytestmark = pytest.mark.anyio

PATH = "/v1/deployments/d"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + "B" * 32


async def stored_runner(api: Api) -> dict[str, Any]:
    import json

    runner: dict[str, Any] = json.loads(
        await api.conn.fetchval("SELECT runner FROM deployments WHERE name = 'd'")
    )
    return runner


async def test_waits_between_retries_are_durations_answered_in_seconds(api: Api) -> None:
    runner = {**RUNNER, "retries": [5, 0.5, "PT1M"]}
    made = await api.put("/v1/deployments/d", {"runner": runner})
    assert made.json()["runner"]["retries"] == [5, 0.5, 60]


async def test_put_makes_and_put_again_replaces(api: Api) -> None:
    made = await api.put(PATH, {"runner": RUNNER})
    again = await api.put(PATH, {"runner": RUNNER, "description": "ships it"})
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json()["id"] == again.json()["id"]
    assert made.json() == {
        **made.json(),
        "name": "d",
        "description": "",
        "tags": [],
        "parameters": {},
        "parameter_schema": None,
        "max_concurrency": 8,
        "run_timeout": 3600,
        "overlap": "allow",
        "enabled": True,
        "disabled_reason": None,
    }
    assert made.json()["runner"]["timeout"] == 30
    assert (await api.get(PATH))["description"] == "ships it"


async def test_durations_are_read_as_iso_8601_and_answered_in_seconds(api: Api) -> None:
    runner = {**RUNNER, "timeout": "PT2M"}
    made = (await api.put(PATH, {"runner": runner, "run_timeout": "PT1H30M"})).json()
    assert (made["runner"]["timeout"], made["run_timeout"]) == (120, 5400)


@pytest.mark.parametrize(
    ("changed", "loc"),
    [
        ({"runner": None}, ["runner"]),
        ({"runner": {"type": "webhook"}}, ["runner", "url"]),
        ({"runner": {"type": "lambda"}}, ["runner", "type"]),
        ({"runner": {"type": "pull", "url": "http://x/"}}, ["runner", "url"]),
        ({"runner": {"type": "pull", "retries": [5, -1]}}, ["runner", "retries", 1]),
        ({"runner": {"url": "ftp://x"}}, ["runner", "url"]),
        ({"runner": {"url": "http://user:pw@x/"}}, ["runner", "url"]),
        ({"runner": {**RUNNER, "secret": "short"}}, ["runner", "secret"]),
        ({"runner": {**RUNNER, "secret": "***"}}, ["runner", "secret"]),
        ({"runner": {**RUNNER, "secret": [SECRET, "***"]}}, ["runner", "secret", 1]),
        ({"runner": {**RUNNER, "headers": {"Host": "x"}}}, ["runner", "headers", "Host"]),
        ({"runner": {**RUNNER, "headers": {"a": "***"}}}, ["runner", "headers", "a"]),
        ({"runner": {**RUNNER, "timeout": 0}}, ["runner", "timeout"]),
        ({"runner": {**RUNNER, "timeout": 301}}, ["runner", "timeout"]),
        ({"runner": {**RUNNER, "retries": [1] * 21}}, ["runner", "retries"]),
        ({"runner": {**RUNNER, "retries": [5, -1]}}, ["runner", "retries", 1]),
        ({"runner": {**RUNNER, "method": "HEAD"}}, ["runner", "method"]),
        ({"runner": {**RUNNER, "method": "get"}}, ["runner", "method"]),
        ({"runner": {**RUNNER, "body": "event"}}, ["runner", "body"]),
        ({"runner": {"type": "pull", "method": "GET"}}, ["runner", "method"]),
        ({"runner": {**RUNNER, "colour": 1}}, ["runner", "colour"]),
        ({"max_concurrency": 0}, ["max_concurrency"]),
        ({"max_concurrency": 1_001}, ["max_concurrency"]),
        ({"max_concurrency": 10**30}, ["max_concurrency"]),
        ({"run_timeout": 0}, ["run_timeout"]),
        ({"run_timeout": -1}, ["run_timeout"]),
        ({"overlap": "never"}, ["overlap"]),
        ({"enabled": "yes"}, ["enabled"]),
        ({"tags": ["x"] * 51}, ["tags"]),
        ({"description": "x" * 5_000}, ["description"]),
        ({"description": "a\0b"}, ["description"]),
        ({"parameters": []}, ["parameters"]),
        ({"parameters": {"a": {"b": "{{ event.resorce.id }}"}}}, ["parameters", "a", "b"]),
        ({"parameters": {"a": "{{ 'a' * 10**9"}}, ["parameters", "a"]),
        ({"parameter_schema": {"type": "intger"}}, ["parameter_schema", "type"]),
        ({"parameter_schema": {"$ref": "http://127.0.0.1:1/x"}}, ["parameter_schema", "$ref"]),
        ({"parameter_schema": {"pattern": "(?=a)b"}}, ["parameter_schema", "pattern"]),
        ({"treshold": 1}, ["treshold"]),
        ({"name": "other"}, ["name"]),
    ],
    ids=str,
)
async def test_what_breaks_a_rule_is_refused_with_its_place(
    api: Api, changed: dict[str, Any], loc: list[Any]
) -> None:
    answer = await api.put(PATH, {"runner": RUNNER, **changed})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"][: len(loc)] == loc
    assert (await api.client.get(PATH)).status_code == 404


@pytest.mark.parametrize("name", ["-a", "a b", "a" * 129, "ä", "%00", "a%0a"])
async def test_a_bad_name_is_refused(api: Api, name: str) -> None:
    answer = await api.put(f"/v1/deployments/{name}", {"runner": RUNNER})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["path", "name"]


async def test_secrets_and_header_values_are_never_shown(api: Api) -> None:
    runner = {**RUNNER, "secret": SECRET, "headers": {"authorization": "Bearer hush"}}
    made = await api.put(PATH, {"runner": runner})
    for answer in (made, await api.client.get(PATH), await api.client.get("/v1/deployments")):
        assert SECRET not in answer.text
        assert "hush" not in answer.text
    assert made.json()["runner"]["secret"] == "***"
    assert made.json()["runner"]["headers"] == {"authorization": "***"}
    assert (await stored_runner(api))["secrets"] == [SECRET]


@pytest.mark.parametrize(
    ("sent", "secrets", "headers"),
    [
        ({}, [SECRET], {"a": "1", "b": "2"}),
        ({"secret": "***", "headers": {"A": "***"}}, [SECRET], {"A": "1", "b": "2"}),
        ({"secret": None, "headers": {"a": None}}, [], {"b": "2"}),
        ({"headers": None}, [SECRET], {}),
        ({"secret": OTHER_SECRET, "headers": {"a": "3", "c": "4"}}, [OTHER_SECRET],
         {"a": "3", "b": "2", "c": "4"}),
        ({"secret": [OTHER_SECRET, "***"]}, [OTHER_SECRET, SECRET], {"a": "1", "b": "2"}),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_stars_or_nothing_keep_what_is_hidden_and_null_removes_it(
    api: Api, method: str, sent: dict[str, Any], secrets: list[str], headers: dict[str, str]
) -> None:
    runner = {**RUNNER, "secret": SECRET, "headers": {"a": "1", "b": "2"}}
    await api.put(PATH, {"runner": runner})
    changed = {**RUNNER, **sent} if method == "PUT" else sent
    answer = await api.client.request(method, PATH, json={"runner": changed})
    assert answer.status_code == 200, answer.text
    stored = await stored_runner(api)
    assert stored["secrets"] == secrets
    assert stored["headers"] == headers


async def test_what_is_shown_can_be_put_again_and_changes_nothing(api: Api) -> None:
    runner = {**RUNNER, "secret": [SECRET, OTHER_SECRET], "headers": {"a": "1"}}
    await api.put(PATH, {"runner": runner, "parameters": {"a": "{{ event.id }}"}})
    before, stored = await api.get(PATH), await stored_runner(api)
    answer = await api.put(PATH, before)
    assert answer.status_code == 200, answer.text
    assert {**answer.json(), "updated": 0} == {**before, "updated": 0}
    assert await stored_runner(api) == stored


async def test_a_patch_changes_what_it_names_and_null_goes_back_to_the_default(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER, "description": "x", "max_concurrency": 3})
    answer = await api.client.patch(
        PATH,
        json={"max_concurrency": None, "runner": {"timeout": 5}},
        headers={"content-type": "application/merge-patch+json"},
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["description"], body["max_concurrency"]) == ("x", 8)
    assert (body["runner"]["url"], body["runner"]["timeout"]) == (RUNNER["url"], 5)


@pytest.mark.parametrize(
    ("patch", "status"),
    [
        ({"runner": None}, 422),
        ({"runner": []}, 422),
        ({"max_concurrency": 0}, 422),
        ({"name": "other"}, 422),
        ([], 422),
        ("x", 422),
        (None, 422),
    ],
    ids=str,
)
async def test_a_bad_patch_is_refused(api: Api, patch: Any, status: int) -> None:
    await api.put(PATH, {"runner": RUNNER})
    answer = await api.client.patch(PATH, json=patch)
    assert answer.status_code == status, answer.text


async def test_the_form_of_calls_is_shown_where_it_is_another_than_the_usual(api: Api) -> None:
    usual = await api.put(PATH, {"runner": {**RUNNER, "method": "POST", "body": "run"}})
    assert not {"method", "body"} & usual.json()["runner"].keys()
    changed = await api.client.patch(PATH, json={"runner": {"method": "PUT", "body": "payload"}})
    assert changed.status_code == 200, changed.text
    shown = (await api.get(PATH))["runner"]
    assert (shown["method"], shown["body"]) == ("PUT", "payload")
    again = await api.put(PATH, {"runner": shown})
    assert again.json()["runner"] == shown
    back = await api.client.patch(PATH, json={"runner": {"method": None, "body": None}})
    assert back.json()["runner"] == usual.json()["runner"]


async def test_deployments_are_listed_by_name_page_by_page(api: Api) -> None:
    for name in ("c", "a", "b"):
        await api.put(f"/v1/deployments/{name}", {"runner": RUNNER})
    first = await api.get("/v1/deployments", limit=2)
    second = await api.get("/v1/deployments", limit=2, cursor=first["next_cursor"])
    assert [one["name"] for one in first["items"] + second["items"]] == ["a", "b", "c"]
    assert second["next_cursor"] is None


async def test_one_that_triggers_run_is_not_deleted(api: Api) -> None:
    await api.shop()
    answer = await api.client.delete(f"/v1/deployments/{SHOP['deployment']}")
    assert answer.status_code == 409
    assert "order-complete" in answer.json()["detail"]


async def test_deleting_cancels_what_was_open(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    run = (await api.client.post(f"{PATH}/runs")).json()
    assert (await api.client.delete(PATH)).status_code == 204
    assert (await api.client.delete(PATH)).status_code == 404
    shown = await api.get(f"/v1/runs/{run['id']}")
    assert (shown["state"], shown["error"]) == ("cancelled", "deployment deleted")
    assert await api.conn.fetchval("SELECT count(*) FROM run_queue") == 0


async def test_enabling_again_forgets_why_it_was_disabled(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    await api.conn.execute(
        "UPDATE deployments SET enabled = false, disabled_reason = 'Its runner answered HTTP 410.'"
    )
    assert (await api.get(PATH))["disabled_reason"] == "Its runner answered HTTP 410."
    still = await api.client.patch(PATH, json={"description": "x"})
    assert still.json()["disabled_reason"] == "Its runner answered HTTP 410."
    enabled = await api.client.patch(PATH, json={"enabled": True})
    assert (enabled.json()["enabled"], enabled.json()["disabled_reason"]) == (True, None)


async def test_a_run_on_demand_gets_its_values_over_the_defaults(api: Api) -> None:
    defaults = {"a": "{{ deployment.name }}", "b": "{{ event.id }}", "c": 1}
    await api.put(PATH, {"runner": RUNNER, "parameters": defaults})
    given = {"b": "{{ as text }}", "d": [2**64 + 1]}
    answer = await api.client.post(f"{PATH}/runs", json={"parameters": given})
    assert answer.status_code == 201, answer.text
    run = answer.json()
    assert run["parameters"] == {"a": "d", "b": "{{ as text }}", "c": 1, "d": [2**64 + 1]}
    assert (run["state"], run["trigger"], run["event"], run["attempts"]) == (
        "scheduled",
        None,
        None,
        [],
    )
    assert "deliver" in api.woken
    assert (await api.claim()).id.hex == run["id"].replace("-", "")


async def test_defaults_that_need_an_event_are_refused_without_one(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER, "parameters": {"b": "{{ event.id }}"}})
    answer = await api.client.post(f"{PATH}/runs", json={})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["parameters", "b"]


async def test_parameters_that_break_the_schema_are_refused(api: Api) -> None:
    schema = {"properties": {"n": {"type": "integer"}}, "required": ["n"]}
    await api.put(PATH, {"runner": RUNNER, "parameter_schema": schema})
    wrong = await api.client.post(f"{PATH}/runs", json={"parameters": {"n": "x"}})
    right = await api.client.post(f"{PATH}/runs", json={"parameters": {"n": 1}})
    assert (wrong.status_code, right.status_code) == (422, 201)
    assert wrong.json()["errors"][0]["loc"] == ["parameters", "n"]


async def test_heavy_defaults_are_left_to_be_rendered_and_given_values_stay_text(
    api: Api,
) -> None:
    import json

    from upshot.core.templates import compile_parameters

    heavy = "{% for n in [1, 2] %}{{ n }}{% endfor %}"
    await api.put(PATH, {"runner": RUNNER, "parameters": {"heavy": heavy}})
    given = {"text": "{{ 7 * 7 }}\n'\"\\ {% if ü", "nested": [{"k": "{#"}], "n": 1}
    run = (await api.client.post(f"{PATH}/runs", json={"parameters": given})).json()
    assert run["parameters"] is None
    template = json.loads(await api.conn.fetchval("SELECT template FROM runs"))
    rendered = compile_parameters(template["parameters"]).render(template["context"])
    assert rendered == {"heavy": "12", **given}


async def test_the_same_idempotency_key_answers_the_same_run(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    headers = {"idempotency-key": "once"}
    first = await api.client.post(f"{PATH}/runs", json={}, headers=headers)
    again = await api.client.post(f"{PATH}/runs", json={}, headers=headers)
    other = await api.client.post(f"{PATH}/runs", json={}, headers={"idempotency-key": "twice"})
    assert [one.status_code for one in (first, again, other)] == [201, 200, 201]
    assert first.json() == again.json()
    assert other.json()["id"] != first.json()["id"]


async def test_an_unknown_deployment_is_not_run(api: Api) -> None:
    assert (await api.client.post("/v1/deployments/none/runs", json={})).status_code == 404
