"""The API with `/api` beside `/v1`, as in tests/api, and served to clients in other processes."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from tests.api.conftest import Api, MakeApi, make_api, serve, share_routes
from tests.prefect.clients import client
from upshot.prefect.app import MadeWhenAsked, mount

__all__ = ["client", "make_api"]


@pytest.fixture
def make_prefect_api(make_api: MakeApi) -> MakeApi:
    """Makes APIs with settings of their own; paths begin with `/api` or `/v1`."""

    def make(**settings: Any) -> Api:
        made = make_api(**settings)
        mount(made.app)
        share_routes(prefect_of(made.app), "prefect")
        return made

    return make


def prefect_of(app: FastAPI) -> FastAPI:
    """The app that is mounted below `/api`."""
    (mounted,) = [route for route in app.routes if getattr(route, "path", None) == "/api"]
    inner: Any = getattr(mounted, "app")  # noqa: B009
    while not isinstance(inner, FastAPI):
        inner = inner.made() if isinstance(inner, MadeWhenAsked) else inner._app
    return inner


@pytest.fixture
def api(make_prefect_api: MakeApi) -> Api:
    """A client of the app in this process. What is posted is evaluated when the test says."""
    return make_prefect_api()


@pytest.fixture
def base_url(database_url: str) -> Iterator[str]:
    """The address of the API, served on a loop of its own with an evaluator; `/api` is below it."""
    bound = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()
    server = threading.Thread(
        target=lambda: asyncio.run(serve(bound, database_url, stopping, mount=mount))
    )
    server.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    stopping.set()
    server.join()
