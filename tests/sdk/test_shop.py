"""The examples' two files, started as a user would, against a real server."""

import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import asyncpg
import pytest

from tests.e2e.server import OPEN_STATES, serving, until
from tests.sdk.servers import Program, program

pytestmark = pytest.mark.anyio

SHOP = Path(__file__).parents[2] / "examples" / "shop"

SLOW_WORKER = """
import os, sys, time
from upshot import EventTrigger, current_run, deployment

@deployment(name="slow", retries=[0])
def slow() -> str:
    print(f"called {current_run().attempt}", flush=True)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    print("over", flush=True)
    return "done"

slow.serve(triggers=[EventTrigger(expect={"go"})])
"""


async def test_the_shops_two_files_print_the_run_of_the_user_who_completed(
    database_url: str,
) -> None:
    async with (
        serving(database_url) as server,
        program(SHOP / "worker.py", url=str(server.api.http.base_url)) as worker,
    ):
        await worker.said("serving post-order-complete")
        async with program(SHOP / "app.py", url=str(server.api.http.base_url)) as app:
            assert await app.end() == 0
            assert app.lines == []
        await worker.said("User 123 has completed an order")

        async def ended() -> bool:
            (run,) = await server.api.runs()
            return bool(run["state"] == "completed")

        await until(ended)
        assert await worker.end(signal.SIGTERM) == 0
        assert worker.lines[-1].endswith("stopped")
        assert worker.count("User") == 1
        (run,) = await server.api.runs()
        assert run["labels"] == {"prefect.resource.id": "123"}


async def test_the_second_start_of_a_file_changes_nothing(database_url: str) -> None:
    async with serving(database_url) as server:
        versions = []
        for _ in range(2):
            async with program(SHOP / "worker.py", url=str(server.api.http.base_url)) as worker:
                await worker.said("serving post-order-complete")
                assert await worker.end(signal.SIGINT) == 0
            (trigger,) = (await server.api.get("/v1/triggers"))["items"]
            versions.append((trigger["name"], trigger["version"], trigger["updated"]))
        assert versions[0] == versions[1]


async def test_a_worker_killed_amid_a_function_is_replaced_and_the_run_ends_once(
    database_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    file, go = tmp_path / "worker.py", tmp_path / "go"
    file.write_text(SLOW_WORKER)

    def started() -> AbstractAsyncContextManager[Program]:
        return program(file, go, url=str(server.api.http.base_url))

    async with serving(database_url) as server:
        async with started() as first:
            await first.said("serving slow")
            run_id = await server.api.fired()
            await first.said("called 1")
            await first.end(signal.SIGKILL)
        assert (await server.api.get(f"/v1/runs/{run_id}"))["state"] in OPEN_STATES
        # Nobody renews the lease now; it ends at once instead of in half a minute.
        await conn.execute("UPDATE run_queue SET lease_until = now()")
        async with started() as second:
            await second.said("called 2")
            go.touch()
            run = await server.api.ended(run_id)
            assert (run["state"], run["result"]) == ("completed", "done")
            assert len(run["attempts"]) == 2
            assert await second.end(signal.SIGTERM) == 0
            assert (second.count("called"), second.count("over")) == (1, 1)


async def test_a_worker_that_is_stopped_amid_a_function_lets_it_finish(
    database_url: str, tmp_path: Path
) -> None:
    file, go = tmp_path / "worker.py", tmp_path / "go"
    file.write_text(SLOW_WORKER)
    async with (
        serving(database_url) as server,
        program(file, go, url=str(server.api.http.base_url)) as worker,
    ):
        await worker.said("serving slow")
        run_id = await server.api.fired()
        await worker.said("called 1")
        worker.process.send_signal(signal.SIGTERM)
        await worker.said("waiting for up to")
        go.touch()
        assert await worker.end() == 0
        run = await server.api.get(f"/v1/runs/{run_id}")
        assert (run["state"], len(run["attempts"])) == ("completed", 1)
