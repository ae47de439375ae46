"""Workers are killed amid their runs: each completes once, and is called again only if cut."""

import asyncio
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncpg

from tests.e2e.server import Api, serving, until
from tests.sdk.servers import Program, program

WORKERS = 4
LIMIT = 16
EVENTS_PER_POST = 500
ENDS_WITHIN_SECONDS = 600.0

WORKER = """
import os, sys
from upshot import EventTrigger, current_run, deployment

@deployment(name="note", max_concurrency=64, retries=[0] * 5, overlap="allow")
async def note() -> None:
    run = current_run()
    tell("begun", run.id)
    tell("over", run.id)

def tell(what: str, run_id: str) -> None:
    # One short write to a file opened to append is whole, or not there.
    os.write(file, f"{what} {run_id}\\n".encode())

file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
note.serve(triggers=[EventTrigger(expect={"go"})], worker=sys.argv[2], limit=int(sys.argv[3]))
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What the functions and the server say in the end."""

    runs: int
    kills: int
    called_again: int


async def prove(
    database_url: str, directory: Path, *, runs: int, kills: int, seed: int, hasten: bool
) -> Told:
    """Fire so many runs at four workers and kill one now and then.

    `hasten` ends the leases of a killed worker at once, which lasts up to 30 s otherwise.

    AssertionError: a run has not completed, or was called again though no call of it was cut.
    """
    file, notes = directory / "worker.py", directory / "notes"
    file.write_text(WORKER)
    notes.touch()
    choose = random.Random(seed)
    async with serving(database_url) as server, AsyncExitStack() as stack:
        url = str(server.api.http.base_url)

        async def started(number: int, life: int) -> Program:
            worker = await stack.enter_async_context(
                program(file, notes, _name(number, life), str(LIMIT), url=url)
            )
            await worker.said("serving note")
            return worker

        workers = [await started(number, 0) for number in range(WORKERS)]
        life_of = dict.fromkeys(range(WORKERS), 0)
        posting = asyncio.create_task(_post(server.api, runs))
        for life in range(1, kills + 1):
            wanted = runs * life // (kills + 1)
            await until(partial(_has_begun, notes, wanted), within=ENDS_WITHIN_SECONDS)
            number = choose.randrange(WORKERS)
            killed = workers[number]
            await killed.end(signal.SIGKILL)
            if hasten:
                await _end_leases(database_url, _name(number, life_of[number]))
            life_of[number] = life
            workers[number] = await started(number, life)
        await posting
        await until(partial(_have_completed, server.api, runs), within=ENDS_WITHIN_SECONDS)
        for worker in workers:
            assert await worker.end(signal.SIGTERM) == 0
        completed = await _completed(server.api)
    return _judged(completed, notes.read_text(), runs=runs, kills=kills)


def _name(number: int, life: int) -> str:
    return f"worker-{number}-{life}"


async def _post(api: Api, runs: int) -> None:
    for first in range(0, runs, EVENTS_PER_POST):
        numbers = range(first, min(first + EVENTS_PER_POST, runs))
        events = [{"event": "go", "resource": {"id": str(number)}} for number in numbers]
        await api.send("POST", "/v1/events", events)


async def _has_begun(notes: Path, wanted: int) -> bool:
    return _begun(notes) >= wanted


def _begun(notes: Path) -> int:
    return notes.read_text().count("begun")


async def _have_completed(api: Api, runs: int) -> bool:
    return len(await _completed(api)) >= runs


async def _completed(api: Api) -> list[str]:
    """The runs of which the log says that they completed."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await api.get("/v1/events", event="upshot.run.completed", limit=500, **cursor)
        found += [event["payload"]["run_id"] for event in page["items"]]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


async def _end_leases(database_url: str, worker: str) -> None:
    conn = await asyncpg.connect(database_url)
    try:
        await conn.execute("UPDATE run_queue SET lease_until = now() WHERE worker = $1", worker)
    finally:
        await conn.close()


def _judged(completed: list[str], notes: str, *, runs: int, kills: int) -> Told:
    lines = [line.split() for line in notes.splitlines()]
    begun = Counter(run for what, run in lines if what == "begun")
    over = Counter(run for what, run in lines if what == "over")
    called_again = begun.total() - runs
    assert len(completed) == len(set(completed)) == runs, f"{len(completed)} of {runs} completed"
    assert set(begun) == set(over) == set(completed), "a run completed that was not called"
    assert called_again <= kills * LIMIT, f"{called_again} calls again for {kills} kills"
    return Told(runs=runs, kills=kills, called_again=called_again)
