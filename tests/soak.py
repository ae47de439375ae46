"""`make soak`: every proof in full, round after round, until the time is over or one fails."""

import argparse
import asyncio
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import asyncpg

from tests.conftest import address_of
from tests.core.reference.agreement import agree
from tests.proofs import (
    acknowledged,
    against_core,
    deadlines,
    deliverers_killed,
    evaluated_once,
    evaluator_suspended,
    killed,
    misbehaving_runners,
    order_restarted,
    postgres_restarted,
    stopped,
    workers_killed,
)
from upshot.core.limits import MIB
from upshot.storage.database import Database

MINUTES_DEFAULT = 60.0
ALARMS_PER_SECOND = 200
ALARM_LATE_MAX = timedelta(seconds=2)
FULL_SIZE_MINUTES = 15.0
"""A shorter soak makes its proofs smaller, so that each of them is shown at least once."""


@dataclass(frozen=True, slots=True)
class Soak:
    """An empty database, how big the proof shall be (1 is in full), and the seed of its chances."""

    url: str
    size: float
    seed: int

    def scaled(self, full: int) -> int:
        return max(1, round(full * self.size))


@dataclass(frozen=True, slots=True)
class Proof:
    """A promise, and how it is shown: the answer says in figures what was seen."""

    promise: str
    show: Callable[[Soak], Awaitable[str]]


async def _order_restarted(soak: Soak) -> str:
    orders = await order_restarted.prove(soak.url, restarts=soak.scaled(10) + 1)
    return f"{orders} orders, each created before a stop or a kill and completed after them all"


async def _acknowledged(soak: Soak) -> str:
    events = soak.scaled(20_000) + 2_000
    before_kill = await acknowledged.prove(soak.url, events=events, seed=soak.seed)
    return f"{before_kill:,} events acknowledged when the server was killed, none lost"


async def _evaluated_once(soak: Soak) -> str:
    database = Database(lambda: soak.url)
    try:
        events = await evaluated_once.prove(database, posts_each=soak.scaled(2_000), seed=soak.seed)
    finally:
        await database.close()
    return f"{events:,} events of {evaluated_once.WRITERS} writers, each evaluated once"


async def _against_reference(soak: Soak) -> str:
    examples = soak.scaled(10_000) + 500
    await asyncio.to_thread(agree, examples, chance=soak.seed)
    return f"{examples:,} random triggers and timelines, core and model fire alike"


async def _against_core(soak: Soak) -> str:
    worlds = soak.scaled(300) + 20
    runs = await asyncio.to_thread(against_core.prove, soak.url, examples=worlds, seed=soak.seed)
    return f"{worlds} random timelines cut at random, {runs:,} runs, all as the core fires"


async def _deadlines(soak: Soak) -> str:
    burst = soak.scaled(100_000) + 2_000
    seen = await deadlines.prove(
        soak.url,
        per_second=ALARMS_PER_SECOND,
        seconds=soak.scaled(30) + 5,
        burst=burst,
        killed=soak.scaled(5_000) + 500,
        down=timedelta(seconds=12),
    )
    assert seen.late <= ALARM_LATE_MAX, (
        f"at {ALARMS_PER_SECOND} a second they were {seen.late} late"
    )
    return (
        f"99 % of {ALARMS_PER_SECOND} alarms a second within {seen.late.total_seconds():.2f} s, "
        f"{burst:,} at once within {seen.burst.total_seconds():.1f} s, meanwhile "
        f"a post answered after {seen.answered.total_seconds():.1f} s and evaluated after "
        f"{seen.evaluated.total_seconds():.1f} s at worst; "
        "none lost or doubled by a kill"
    )


async def _evaluators_killed(soak: Soak) -> str:
    database, kills = Database(lambda: soak.url), soak.scaled(100) + 4
    try:
        events = await killed.prove(database, soak.url, events=1_000, kills=kills, seed=soak.seed)
    finally:
        await database.close()
    return f"{events:,} events, {kills} evaluators killed, the runs of the model"


async def _evaluator_suspended(soak: Soak) -> str:
    took = await evaluator_suspended.prove(soak.url, events=soak.scaled(500))
    return f"a standby went on {took:.1f} s after the evaluator was suspended"


async def _deliverers_killed(soak: Soak) -> str:
    runs, kills = soak.scaled(2_000) + 50, soak.scaled(15) + 1
    lost = await deliverers_killed.prove(soak.url, runs=runs, kills=kills, seed=soak.seed)
    return f"{runs:,} runs, {kills} deliverers killed, {lost} attempts lost and made again"


async def _workers_killed(soak: Soak) -> str:
    runs, kills = soak.scaled(10_000) + 300, soak.scaled(30) + 3
    lost = await workers_killed.prove(soak.url, runs=runs, kills=kills, seed=soak.seed)
    return f"{runs:,} runs, {kills} workers killed, {lost} attempts lost and made again"


async def _misbehaving_runners(soak: Soak) -> str:
    rounds = soak.scaled(10) + 1
    grown = await misbehaving_runners.prove(soak.url, rounds=rounds)
    count = len(misbehaving_runners.EXPECTED)
    return f"{rounds} rounds of {count} runners, the server grew by {grown / MIB:.0f} MiB"


async def _postgres_restarted(soak: Soak) -> str:
    restarts = soak.scaled(8) + 1
    events = await postgres_restarted.prove(restarts=restarts, events_between=soak.scaled(300))
    return f"{restarts} crashes of Postgres, {events:,} events acknowledged, none lost"


async def _stopped(soak: Soak) -> str:
    return f"stopped within {await stopped.prove(soak.url):.0f} s of the signal, the run given back"


PROOFS = (
    Proof("An order survives restarts of the server", _order_restarted),
    Proof("Acknowledged is stored", _acknowledged),
    Proof("Every stored event is evaluated exactly once", _evaluated_once),
    Proof("The core fires what a model says that is written differently", _against_reference),
    Proof("The pipeline fires what the core alone fires", _against_core),
    Proof("An absence is alarmed in time, and once", _deadlines),
    Proof("State, runs and cursor move together", _evaluators_killed),
    Proof("A suspended evaluator is relieved", _evaluator_suspended),
    Proof("Every run ends once, though deliverers die", _deliverers_killed),
    Proof("Every run ends once, though workers die", _workers_killed),
    Proof("A stopped server gives back its runs", _stopped),
    Proof("Bad runners harm neither others nor the server", _misbehaving_runners),
    Proof("Postgres may go away at any instant", _postgres_restarted),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES_DEFAULT)
    sys.exit(asyncio.run(soak(minutes=parser.parse_args().minutes)))


async def soak(*, minutes: float) -> int:
    """The exit status: 1 as soon as a promise is broken."""
    size = min(1.0, minutes / FULL_SIZE_MINUTES)
    until = time.monotonic() + minutes * 60
    seed = time.time_ns() % 1_000_000
    shown: dict[str, list[str]] = {proof.promise: [] for proof in PROOFS}
    async with postgres_restarted.own_cluster() as cluster:
        while time.monotonic() < until:
            for proof in PROOFS:
                if all(shown.values()) and time.monotonic() > until:
                    break
                figures = await _show(proof, cluster.url, size=size, seed=seed)
                if figures is None:
                    _summarise(shown)
                    _say(f"BROKEN    {proof.promise} (seed {seed})")
                    return 1
                shown[proof.promise].append(figures)
            seed += 1
    _summarise(shown)
    return 0


async def _show(proof: Proof, url: str, *, size: float, seed: int) -> str | None:
    """What was seen; None when the promise was broken."""
    began = time.monotonic()
    try:
        async with _empty_database(url) as own:
            figures = await proof.show(Soak(url=own, size=size, seed=seed))
    except Exception:
        traceback.print_exc()
        return None
    _say(f"{time.monotonic() - began:7.1f} s  {proof.promise}: {figures}")
    return figures


@asynccontextmanager
async def _empty_database(url: str) -> AsyncIterator[str]:
    name = f"soak_{uuid4().hex}"
    await _execute(url, f"CREATE DATABASE {name}")
    database = Database(lambda: address_of(url, name))
    await database.migrate()
    await database.close()
    yield address_of(url, name)
    await _execute(url, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


def _summarise(shown: dict[str, list[str]]) -> None:
    _say("")
    for promise, figures in shown.items():
        _say(f"kept {len(figures):>3} x  {promise}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
