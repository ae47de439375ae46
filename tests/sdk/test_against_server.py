"""What the SDK and the real server do together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

import upshot
from tests.e2e.server import OPEN_STATES, Server, serving, until
from tests.sdk.fake import logged
from tests.sdk.test_webhook import OLD, SECRET
from upshot import Deployment, EventTrigger, Refused, deployment

pytestmark = pytest.mark.anyio


class Node(BaseModel):
    """Refers to itself, which the server's schemas do not."""

    name: str
    children: list["Node"] = []


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    async with serving(database_url) as server:
        yield server


def url_of(server: Server) -> str:
    return str(server.api.http.base_url)


@asynccontextmanager
async def served(server: Server, *made: Deployment[..., Any], **more: Any) -> AsyncIterator[None]:
    """Registered and working, until the block ends."""
    task = asyncio.ensure_future(
        upshot.aserve(*made, api_url=url_of(server), stop_within=0, **more)
    )
    try:
        await logged("serving ")
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def attempts_of(server: Server, run_id: str) -> list[int]:
    """The answers to its calls; an attempt is recorded with others, maybe after its report came."""
    run = await server.api.get(f"/v1/runs/{run_id}")
    return [attempt["status"] for attempt in run["attempts"]]


async def waits(server: Server, run_id: str) -> bool:
    state = (await server.api.get(f"/v1/runs/{run_id}"))["state"]
    return state in OPEN_STATES - {"running"}


async def asked_for(server: Server, name: str, parameters: dict[str, Any]) -> str:
    run = await server.api.send("POST", f"/v1/deployments/{name}/runs", {"parameters": parameters})
    return str(run["id"])


async def test_runs_of_every_kind_end_as_they_should(server: Server) -> None:
    begun = asyncio.Event()

    @deployment(name="tree")
    def tree(root: Node) -> Node:
        return root

    @deployment(name="forever")
    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    @deployment(name="broken", retries=[0], retry_on=(ConnectionError,))
    def broken(kind: str) -> None:
        raise {"again": ConnectionError, "once": ValueError}[kind](kind)

    async with served(server, tree, forever, broken):
        root = {"name": "a", "children": [{"name": "b", "children": []}]}
        run = await server.api.ended(await asked_for(server, "tree", {"root": root}))
        assert (run["state"], run["result"]) == ("completed", root)
        wrong = await server.api.ended(await asked_for(server, "tree", {"root": {"name": 7}}))
        assert "root.name: Input should be a valid string" in wrong["error"]

        for kind, attempts in (("once", 1), ("again", 2)):
            run = await server.api.ended(await asked_for(server, "broken", {"kind": kind}))
            assert (run["state"], len(run["attempts"])) == ("failed", attempts)
            assert f"Error: {kind} (test_against_server.py, line" in run["error"]

        stopped = await asked_for(server, "forever", {})
        await begun.wait()
        await server.api.send("POST", f"/v1/runs/{stopped}/cancel")
        begun.clear()
        given_back = await asked_for(server, "forever", {})
        await begun.wait()
    # The worker has stopped, and did not keep what it could not finish.
    assert await until(partial(waits, server, given_back))
    assert (await server.api.get(f"/v1/runs/{stopped}"))["state"] == "cancelled"


async def test_a_webhook_endpoint_is_called_with_calls_it_can_verify(server: Server) -> None:
    @deployment(name="greet", triggers=[EventTrigger(expect="go", parameters={"name": "you"})])
    async def greet(name: str) -> str:
        return f"Hello, {name}!"

    for secret in ([SECRET], [OLD, SECRET], [OLD]):
        async with served(server, greet, mode="webhook", secret=secret):
            run = await server.api.ended(await asked_for(server, "greet", {"name": "you"}))
            assert (run["state"], run["result"]) == ("completed", "Hello, you!")
            assert await until(partial(attempts_of, server, run["id"])) == [202]


async def test_a_trigger_that_leaves_out_a_parameter_is_refused_at_the_start(
    server: Server,
) -> None:
    @deployment(name="greet", triggers=[EventTrigger(name="t", expect="go")])
    def greet(name: str) -> None: ...

    with pytest.raises(Refused, match="name"):
        await upshot.aserve(greet, api_url=url_of(server))
