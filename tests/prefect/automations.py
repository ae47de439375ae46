"""What tests of automations make, and ask for."""

from typing import Any

from tests.api.conftest import RUNNER, Api

TRIGGER = {
    "type": "event",
    "after": ["order.created"],
    "expect": ["order.complete"],
    "for_each": ["prefect.resource.id"],
    "match": {},
    "match_related": {},
    "posture": "Reactive",
    "threshold": 1,
    "within": 0.0,
}
DO_NOTHING = {"type": "do-nothing"}


async def make(api: Api, **more: Any) -> dict[str, Any]:
    """An automation, as it is answered."""
    sent = {"name": "order complete", "trigger": TRIGGER, "actions": [DO_NOTHING], **more}
    answer = await api.client.post("/api/automations/", json=sent)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def deployment(api: Api, name: str = "post-order-complete") -> str:
    """The id of a deployment that is made."""
    answer = await api.put(f"/v1/deployments/{name}", {"runner": RUNNER})
    assert answer.status_code in (200, 201), answer.text
    deployment_id: str = answer.json()["id"]
    return deployment_id


def run(deployment_id: str | None, **more: Any) -> dict[str, Any]:
    return {
        "type": "run-deployment",
        "source": "inferred" if deployment_id is None else "selected",
        "deployment_id": deployment_id,
        "parameters": {"user_id": "{{ event.resource.id }}"},
        **more,
    }


async def named(api: Api, **body: Any) -> list[str]:
    """The names of the automations that a filter finds."""
    answer = await api.client.post("/api/automations/filter", json=body)
    assert answer.status_code == 200, answer.text
    return [one["name"] for one in answer.json()]
