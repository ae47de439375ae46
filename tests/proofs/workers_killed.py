"""Every run completes once, though workers that pull are killed in the middle of their work."""

import asyncio
import random
import sys
from asyncio.subprocess import Process
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from tests.e2e.server import Server, serving, until

WORKERS = 4


async def prove(url: str, *, runs: int, kills: int, seed: int) -> int:
    """Let four processes work off so many runs, one of which is killed and replaced now and then.

    Leases of the killed are run out by hand, since a proof does not want to wait for them. Answers
    how many attempts were lost.
    """
    chance = random.Random(seed)
    with TemporaryDirectory() as folder:
        calls = Path(folder) / "calls"
        calls.touch()
        async with serving(url) as server:
            runner = {"runner": {"type": "pull"}, "max_concurrency": 1_000}
            await server.api.send("PUT", "/v1/deployments/d", runner)
            await server.api.trigger("t", deployment="d", expect=["go"])
            conn = await asyncpg.connect(url)
            workers = {f"w{n}": await _start(server, f"w{n}", calls) for n in range(WORKERS)}
            try:
                events = [{"event": "go", "resource": {"id": str(n)}} for n in range(runs)]
                for at in range(0, runs, 1_000):
                    await server.api.post(*events[at : at + 1_000])
                for number in range(WORKERS, WORKERS + kills):
                    await _calls_or_none_left(conn, calls, chance.randint(1, runs // kills))
                    victim = chance.choice(sorted(workers))
                    await _kill(workers.pop(victim))
                    await _expire_leases(conn, victim)
                    name = f"w{number}"
                    workers[name] = await _start(server, name, calls)
                await until(lambda: _none_open(conn), within=240)
                return await _check(conn, calls.read_text().split(), runs=runs)
            finally:
                for worker in workers.values():
                    await _kill(worker)
                await conn.close()


async def _start(server: Server, name: str, calls: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.proofs.pulling_worker",
        str(server.api.http.base_url), name, str(calls),
    )  # fmt: skip


async def _kill(worker: Process) -> None:
    worker.kill()
    await worker.wait()


async def _calls_or_none_left(conn: asyncpg.Connection, calls: Path, more: int) -> None:
    wanted = _count(calls) + more

    async def come() -> bool:
        return _count(calls) >= wanted or await _none_open(conn)

    await until(come, within=60)


def _count(calls: Path) -> int:
    return len(calls.read_text().split())


async def _none_open(conn: asyncpg.Connection) -> bool:
    return not await conn.fetchval("SELECT EXISTS (SELECT FROM run_queue)")


async def _expire_leases(conn: asyncpg.Connection, worker: str) -> None:
    await conn.execute("UPDATE run_queue SET lease_until = now() WHERE worker = $1", worker)


async def _check(conn: asyncpg.Connection, calls: list[str], *, runs: int) -> int:
    rows = await conn.fetch(
        "SELECT r.id::text, r.state, array_agg(a.outcome ORDER BY a.number) AS outcomes "
        "FROM runs AS r LEFT JOIN attempts AS a ON a.run_id = r.id GROUP BY r.id"
    )
    assert len(rows) == runs, "a run vanished"
    assert {row["state"] for row in rows} == {"completed"}, "a run did not complete"
    called = Counter(calls)
    assert set(called) == {row["id"] for row in rows}, "a run was not called, or another was"
    lost = 0
    for row in rows:
        *before, last = row["outcomes"]
        assert last == "completed", row
        # What a worker had hung up on before it got it is given back at once, and never called.
        assert set(before) <= {"lost", "released"}, row
        cut = before.count("lost")
        assert called[row["id"]] <= 1 + cut, "a call was made that is not on record"
        lost += cut
    return lost
