"""Breakers: shown with their deployments and in metrics, reset, forgotten with their runner."""

import re
from typing import Any

import pytest

from tests.api.conftest import RUNNER, Api
from upshot.core.breaker import BreakerState, Called
from upshot.core.limits import BREAKER_CALLS_MIN
from upshot.storage import breakers

pytestmark = pytest.mark.anyio

PATH = "/v1/deployments/d"
RESET = f"{PATH}/breaker/reset"
ALWAYS_CLOSED = {"state": "closed", "since": None, "calls": 0, "failures": 0, "next_probe": None}


async def test_a_new_deployment_has_a_closed_breaker_and_one_that_pulls_has_none(api: Api) -> None:
    assert (await api.put(PATH, {"runner": RUNNER})).json()["breaker"] == ALWAYS_CLOSED
    assert (await api.get(PATH))["breaker"] == ALWAYS_CLOSED
    pulled = await api.put("/v1/deployments/pulled", {"runner": {"type": "pull"}})
    assert pulled.json()["breaker"] is None


async def test_an_open_breaker_is_shown_with_what_opened_it(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    await open_breaker(api)
    breaker = (await api.get(PATH))["breaker"]
    assert breaker == {
        "state": "open",
        "since": breaker["since"],
        "calls": BREAKER_CALLS_MIN,
        "failures": BREAKER_CALLS_MIN,
        "next_probe": breaker["next_probe"],
    }
    assert breaker["next_probe"] > breaker["since"]
    (listed,) = (await api.get("/v1/deployments"))["items"]
    assert listed["breaker"] == breaker


async def test_metrics_name_the_deployments_whose_breaker_is_not_closed(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    await api.put("/v1/deployments/other", {"runner": RUNNER})
    await open_breaker(api)
    assert gauges(await metrics(api)) == [
        'upshot_breakers{state="open"} 1.0',
        'upshot_breakers{state="half-open"} 0.0',
        'upshot_breaker_not_closed{deployment="d"} 1.0',
    ]
    await api.client.delete(PATH)
    assert gauges(await metrics(api)) == [
        'upshot_breakers{state="open"} 0.0',
        'upshot_breakers{state="half-open"} 0.0',
    ]


async def test_a_reset_calls_the_runner_at_once(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    await open_breaker(api)
    api.woken.clear()
    answer = await api.client.post(RESET)
    assert answer.status_code == 200
    assert answer.json()["breaker"]["state"] == "half-open"
    assert answer.json() == await api.get(PATH)
    assert api.woken == ["deliver"]


async def test_a_reset_of_what_was_never_called_changes_nothing(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    assert (await api.client.post(RESET)).json()["breaker"] == ALWAYS_CLOSED
    assert (await api.client.post("/v1/deployments/nobody/breaker/reset")).status_code == 404


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"description": "ships it"}, "open"),
        ({"runner": {"url": "http://127.0.0.1:9001/run"}}, "closed"),
        ({"runner": {"timeout": 60}}, "closed"),
    ],
)
async def test_another_runner_starts_with_a_closed_breaker(
    api: Api, change: dict[str, Any], state: str
) -> None:
    await api.put(PATH, {"runner": RUNNER})
    await open_breaker(api)
    assert (await api.client.patch(PATH, json=change)).json()["breaker"]["state"] == state
    assert (await api.get(PATH))["breaker"]["state"] == state


async def test_what_was_shown_can_be_put_back(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    await open_breaker(api)
    shown = await api.get(PATH)
    again = await api.put(PATH, {**shown, "breaker": ALWAYS_CLOSED})
    assert again.json()["breaker"] == shown["breaker"]


async def test_a_deployment_that_is_made_anew_inherits_no_breaker(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER})
    await open_breaker(api)
    await api.client.delete(PATH)
    assert (await api.put(PATH, {"runner": RUNNER})).json()["breaker"] == ALWAYS_CLOSED
    assert (await api.get(PATH))["breaker"] == ALWAYS_CLOSED
    assert await api.conn.fetchval("SELECT count(*) FROM breakers") == 0


async def open_breaker(api: Api) -> None:
    failures = [Called(BreakerState.CLOSED, has_failed=True)] * BREAKER_CALLS_MIN
    async with api.conn.transaction():
        (turned,) = await breakers.count(api.conn, {"d": failures})
    assert turned.after.state is BreakerState.OPEN


async def metrics(api: Api) -> str:
    return (await api.client.get("/metrics")).text


def gauges(text: str) -> list[str]:
    return re.findall(r"^upshot_breaker.*$", text, re.M)
