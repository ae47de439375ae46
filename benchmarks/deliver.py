"""Deliver: runners called a second, against a bare HTTP client calling the same runner."""

import time
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.figures import CALLS_PER_SECOND, RATIO, Figure, Measured, ratios
from benchmarks.load import Call, Worked
from benchmarks.processes import Done, expect
from benchmarks.product import Upshot, until
from benchmarks.runner import Calls, Count, Counted, Forget, Read
from benchmarks.story import Chapter, Story
from upshot.core.limits import CONCURRENCY_DEFAULT

USERS = 2_500
CONCURRENCY = 64
MARK = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    delivered: float
    bare: float


async def measure(bench: Bench) -> Measured:
    users = bench.amount(USERS)
    story = Story(open_keys=users)
    rounds: dict[int, list[_Round]] = {}
    async with bench.shop(story, enabled=False) as upshot:
        body = await _body(bench, upshot, story)
        for concurrency in (CONCURRENCY, CONCURRENCY_DEFAULT):
            rounds[concurrency] = [
                await _round(
                    bench,
                    upshot,
                    story.chapter(users),
                    call=_call(bench, body=body, calls=users, concurrency=concurrency),
                    upshot_first=first,
                )
                for first in bench.in_turn()
            ][1:]
    return Measured(
        name="deliver",
        title="Deliver: runs that wait, called and completed",
        note="The runs are made while the deployment is disabled. Time runs from enabling it until "
        "the last is completed in the database, each with its attempt on record. The bare client "
        "is aiohttp with the same body and as many calls at a time. The runner answers at once, "
        "from the same machine.",
        settings={"runs_per_round": users},
        figures=(
            *_figures(CONCURRENCY, rounds[CONCURRENCY], mark=MARK),
            *_figures(CONCURRENCY_DEFAULT, rounds[CONCURRENCY_DEFAULT], mark=None),
        ),
    )


def _figures(concurrency: int, rounds: list[_Round], *, mark: float | None) -> tuple[Figure, ...]:
    delivered = tuple(one.delivered for one in rounds)
    bare = tuple(one.bare for one in rounds)
    at_a_time = f"{concurrency} at a time"
    return (
        Figure(
            name=f"delivered, of a bare client's, {at_a_time}",
            unit=RATIO,
            rounds=ratios(delivered, bare),
            at_least=mark,
        ),
        Figure(name=f"delivered, {at_a_time}", unit=CALLS_PER_SECOND, rounds=delivered),
        Figure(name=f"bare client, {at_a_time}", unit=CALLS_PER_SECOND, rounds=bare),
    )


async def _body(bench: Bench, upshot: Upshot, story: Story) -> str:
    """What a call says: one run, delivered."""
    await _deliver(bench, upshot, story.chapter(1), concurrency=1)
    return (await bench.runner.ask(Read(), Calls)).body


async def _round(
    bench: Bench, upshot: Upshot, chapter: Chapter, *, call: Call, upshot_first: bool
) -> _Round:
    bare = 0.0 if upshot_first else await _bare(bench, call)
    seconds = await _deliver(bench, upshot, chapter, concurrency=call.concurrency)
    return _Round(delivered=chapter.users / seconds, bare=bare or await _bare(bench, call))


async def _deliver(bench: Bench, upshot: Upshot, chapter: Chapter, *, concurrency: int) -> float:
    """Seconds from enabling the deployment until every run of the chapter is completed."""
    await upshot.change_deployment(enabled=False, max_concurrency=concurrency)
    completed = await upshot.count("FROM runs WHERE state = 'completed'")
    await bench.post(upshot, chapter)
    await upshot.until_count(chapter.users, "FROM run_queue")
    await upshot.settle()
    await bench.runner.ask(Forget(), Done)

    async def is_empty() -> bool:
        return not await upshot.sql.fetchval("SELECT EXISTS (SELECT FROM run_queue)")

    started_at = time.monotonic()
    await upshot.change_deployment(enabled=True)
    seconds = await until(is_empty, "every run has ended") - started_at
    done = await upshot.count("FROM runs WHERE state = 'completed'") - completed
    expect(done, chapter.users, "runs completed")
    expect(await upshot.count("FROM attempts"), completed + done, "attempts on record")
    expect((await bench.runner.ask(Count(), Counted)).calls, chapter.users, "calls received")
    expect((await bench.runner.ask(Read(), Calls)).runs, chapter.users, "runs called for")
    return seconds


async def _bare(bench: Bench, call: Call) -> float:
    await bench.runner.ask(Forget(), Done)
    worked = await bench.load.ask(call, Worked)
    expect((await bench.runner.ask(Count(), Counted)).calls, call.calls, "calls received")
    return call.calls / worked.seconds


def _call(bench: Bench, *, body: str, calls: int, concurrency: int) -> Call:
    url = f"http://127.0.0.1:{bench.runner.port}/run"
    return Call(url=url, body=body, calls=calls, concurrency=concurrency)
