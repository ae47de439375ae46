"""Start: seconds from `upshot serve` until it is ready, on nothing and on what it left behind."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import BATCHED, Bench
from benchmarks.figures import SECONDS, Figure, Measured
from benchmarks.processes import expect
from benchmarks.product import DEPLOYMENT, data_directory, serving_in, started
from benchmarks.story import Chapter, Story, trigger
from upshot.storage import embedded

EVENTS = 100_000
USERS = 20_000
MARK_EMPTY, MARK_FULL = 5, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    empty: float
    full: float


async def measure(bench: Bench) -> Measured:
    with data_directory() as full:
        events = await _fill(bench, full)
        rounds = [await _round(full, full_first=first) for first in bench.in_turn()][1:]
        async with serving_in(full) as upshot:
            expect(await upshot.events(), events, "events stored")
    return Measured(
        name="start",
        title="Start: from `upshot serve` to ready",
        note="Until /readyz answers 200, the Postgres started by the server itself. Empty: a new "
        "data directory, so the cluster and the schema are made. Full: events are stored and "
        "evaluated, and the server was asked to stop. All of it was started before, so Python and "
        "Postgres come from the system's cache.",
        settings={**BATCHED, "events_stored": events},
        figures=(
            Figure(
                name="on an empty data directory",
                unit=SECONDS,
                rounds=tuple(one.empty for one in rounds),
                at_most=MARK_EMPTY,
            ),
            Figure(
                name=f"with {events:,} events stored",
                unit=SECONDS,
                rounds=tuple(one.full for one in rounds),
                at_most=MARK_FULL,
            ),
        ),
    )


async def _fill(bench: Bench, data_dir: Path) -> int:
    """Tell the shop's story; answers how many events that are."""
    users = bench.amount(USERS)
    story, chapters = Story(open_keys=users), (bench.amount(EVENTS) - users) // (2 * users)
    async with serving_in(data_dir) as upshot:
        await upshot.deploy(runner_port=bench.runner.port, enabled=False)
        await upshot.register(trigger(deployment=DEPLOYMENT))
        await bench.open_keys(upshot, story)
        for _ in range(chapters):
            await bench.post(upshot, story.chapter(users))
        await upshot.until_head()
        await upshot.settle()
        events = await upshot.events()
    expect(events, users + chapters * Chapter(users=users, opened=0, completed=0).length, "events")
    return events


async def _round(full: Path, *, full_first: bool) -> _Round:
    of_full = await _seconds(full) if full_first else 0.0
    with data_directory() as empty:
        of_empty = await _seconds(empty)
    return _Round(empty=of_empty, full=of_full or await _seconds(full))


async def _seconds(data_dir: Path) -> float:
    """Start it, and stop it as it should be."""
    code = None
    try:
        async with started(data_dir) as server:
            seconds = server.seconds
        code = server.process.returncode
        expect(code, 0, "exit code of the server")
    finally:
        if code != 0:
            # Its Postgres may run on: whoever claims it last stops it.
            embedded.start(data_dir).close()
    return seconds
