"""The API keeps what its OpenAPI document says, whatever is sent to it."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import RUNNER, SHOP

EXAMPLES = 15
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.timeout(300)
def test_nothing_makes_the_server_fail_or_break_its_own_description(base_url: str) -> None:
    with httpx.Client(base_url=base_url) as client:
        client.put("/v1/deployments/post-order-complete", json={"runner": RUNNER})
        client.put("/v1/triggers/order-complete", json=SHOP).raise_for_status()
        run = client.post("/v1/deployments/post-order-complete/runs", json={"parameters": {}})
        posted = client.post("/v1/events", json={"event": "x", "resource": {"id": "1"}})
        document = client.get("/openapi.json").json()
    known = {
        "run_id": run.json()["id"],
        "event_id": posted.json()["results"][0]["id"],
        "/v1/deployments/": "post-order-complete",
        "/v1/triggers/": "order-complete",
    }
    schema: Any = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    # What deletes comes last, so that there is something for the others.
    for operation in sorted(operations, key=lambda one: one.method == "delete"):
        _try(operation, base_url, known)


def _try(operation: Any, base_url: str, known: dict[str, str]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), is_known=st.booleans())
    def keeps_the_contract(case: Any, is_known: bool) -> None:
        for name in case.path_parameters if is_known else ():
            of_path = next((known[path] for path in known if operation.path.startswith(path)), "")
            case.path_parameters[name] = known.get(name, of_path)
        if operation.path == "/v1/runs/claim":
            # By default it waits for half a minute.
            case.body = {**(case.body if isinstance(case.body, dict) else {}), "wait": 0}
        case.call_and_validate(base_url=base_url, checks=CHECKS)

    keeps_the_contract()
