"""Every route of `/api` takes what the client's own models make, and is read into them."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.api.conftest import serve
from tests.prefect.clients import FLOWS, Client, Shell
from tests.prefect.conftest import prefect_of
from upshot.prefect import absent
from upshot.prefect.app import mount

pytestmark = pytest.mark.anyio

Asked = tuple[str, str]

IN_OTHER_TESTS = {
    ("WEBSOCKET", "/events/in"),  # test_shop.py
    ("WEBSOCKET", "/events/out"),  # test_event_command.py
    ("WEBSOCKET", "/logs/out"),  # test_workshop.py
}


class Recorder:
    """What was asked of an app, by the route that answered."""

    def __init__(self, app: ASGIApp, *, asked: set[Asked]) -> None:
        self._app = app
        self._asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        if route := scope.get("route"):
            self._asked.add((scope["method"], route.path))


class Recorded:
    """A served API that remembers what it was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: set[Asked] = set()
        self.routes: set[Asked] = set()

    def mount(self, app: FastAPI) -> None:
        mount(app)
        prefect = prefect_of(app)
        self.routes = {asked for route in prefect.routes for asked in questions(route)}
        prefect.add_middleware(Recorder, asked=self.asked)


@pytest.fixture
def recorded(database_url: str) -> Iterator[Recorded]:
    bound = socket.create_server(("127.0.0.1", 0))
    api = Recorded(f"http://127.0.0.1:{bound.getsockname()[1]}")
    stopping = threading.Event()
    server = threading.Thread(
        target=lambda: asyncio.run(serve(bound, database_url, stopping, mount=api.mount))
    )
    server.start()
    yield api
    stopping.set()
    server.join()


async def test_the_client_asks_for_every_route_and_understands_each_answer(
    client: Client, recorded: Recorded, tmp_path: Path
) -> None:
    said = await Shell(client, tmp_path, recorded.url).run(FLOWS / "conversation.py")
    assert said.count(": ok") == 13, said
    assert len(recorded.routes) > 70
    left_out = recorded.routes - recorded.asked - IN_OTHER_TESTS
    assert not left_out, sorted(left_out)


def questions(route: BaseRoute) -> Iterator[Asked]:
    """What can be asked by it, `absent` left aside."""
    router = getattr(route, "original_router", None)
    if router is absent.router:
        return
    for inner in router.routes if router else ():
        yield from questions(inner)
    if not router:
        for method in getattr(route, "methods", None) or ("WEBSOCKET",):
            yield method, getattr(route, "path", "")
