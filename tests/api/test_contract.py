"""The API keeps what its OpenAPI document says, whatever is sent to it."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import RUNNER, SHOP, Posting
from upshot.api.app import create_app
from upshot.api.services import Services
from upshot.pipeline.ingest import Ingest
from upshot.settings import Settings
from upshot.storage.database import Database
from upshot.workers import loops
from upshot.workers.signals import Signals

EXAMPLES = 15
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def base_url(database_url: str) -> Iterator[str]:
    """The address of the API, served by uvicorn on a loop of its own."""
    bound = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()
    server = threading.Thread(target=lambda: asyncio.run(_serve(bound, database_url, stopping)))
    server.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    stopping.set()
    server.join()


async def _serve(bound: socket.socket, database_url: str, stopping: threading.Event) -> None:
    database = Database(lambda: database_url)
    line = loops.Line(database, Signals(), asyncio.Event())
    ingest = Ingest(on_stored=lambda: line.signals.wake(loops.EVALUATE))
    app = create_app(
        Services(
            settings=Settings(_env_file=None),
            database=database,
            ingest=Posting(ingest, line),
            wake=line.signals.wake,
            not_ready=lambda: None,
            now=lambda: datetime.now(UTC),
        )
    )
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    writer = await database.connect()
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(ingest.write(writer))
        tasks.create_task(loops.evaluate(line, key_retention=timedelta(days=90)))
        tasks.create_task(server.serve(sockets=[bound]))
        await asyncio.to_thread(stopping.wait)
        server.should_exit = True
        line.stopping.set()
        writing.cancel()
    await writer.close()
    await database.close()


@pytest.mark.timeout(300)
def test_nothing_makes_the_server_fail_or_break_its_own_description(base_url: str) -> None:
    with httpx.Client(base_url=base_url) as client:
        client.put("/v1/deployments/post-order-complete", json={"runner": RUNNER})
        client.put("/v1/triggers/order-complete", json=SHOP).raise_for_status()
        client.post("/v1/deployments/post-order-complete/runs", json={"parameters": {"a": 1}})
        client.post("/v1/events", json={"event": "order.created", "resource": {"id": "1"}})
        document = client.get("/openapi.json").json()
    tried = 0
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        _try(found.ok(), base_url)
        tried += 1
    assert tried > 20


def _try(operation: Any, base_url: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def keeps_the_contract(case: Any) -> None:
        case.call_and_validate(base_url=base_url, checks=CHECKS)

    keeps_the_contract()
