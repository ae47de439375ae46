"""Prefect's API as a whole: made when it is first asked for."""

import asyncio
import subprocess
import sys

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from upshot.prefect.app import MadeWhenAsked

pytestmark = pytest.mark.anyio


async def test_many_first_requests_make_one_app() -> None:
    made: list[FastAPI] = []

    def make() -> FastAPI:
        made.append(FastAPI())
        return made[-1]

    async with AsyncClient(
        transport=ASGITransport(MadeWhenAsked(make)), base_url="http://a"
    ) as client:
        answers = await asyncio.gather(*(client.get("/openapi.json") for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len(made) == 1


def test_what_serves_knows_nothing_of_prefects_operations_before() -> None:
    code = "import sys; import upshot.main, upshot.serving; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"upshot.prefect.operations", "upshot.prefect.flow_runs"}.isdisjoint(loaded)
    assert "upshot.api.events" in loaded
