"""Evaluate: events a second from the first post to the last run, every second event firing."""

from dataclasses import dataclass

from benchmarks.bench import BATCHED, OPEN_KEYS, Bench
from benchmarks.copying import Copying, copying
from benchmarks.figures import EVENTS_PER_SECOND, RATIO, Figure, Measured, ratios
from benchmarks.processes import expect
from benchmarks.product import Upshot
from benchmarks.story import Chapter, Story

USERS = 10_000
MARK = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    evaluated: float
    copied: float


async def measure(bench: Bench) -> Measured:
    users = bench.amount(USERS)
    story = Story(open_keys=users)
    async with bench.shop(story, enabled=False) as upshot, copying(upshot) as other:
        rounds = [
            await _round(bench, upshot, other, story.chapter(users), upshot_first=first)
            for first in bench.in_turn()
        ][1:]
    evaluated = tuple(one.evaluated for one in rounds)
    copied = tuple(one.copied for one in rounds)
    return Measured(
        name="evaluate",
        title="Evaluate: from the first post to the last run",
        note="Every second event fires, each for a key that an earlier round opened. The events "
        "are posted at the same time. The deployment is disabled, so that the runs are made and "
        "wait: delivery is measured apart.",
        settings={**BATCHED, "events_per_round": 2 * users, "open_keys": users},
        figures=(
            Figure(
                name="evaluated, of raw COPY",
                unit=RATIO,
                rounds=ratios(evaluated, copied),
                at_least=MARK,
            ),
            Figure(name="evaluated, end to end", unit=EVENTS_PER_SECOND, rounds=evaluated),
            Figure(name="raw COPY", unit=EVENTS_PER_SECOND, rounds=copied),
        ),
    )


async def _round(
    bench: Bench, upshot: Upshot, other: Copying, chapter: Chapter, *, upshot_first: bool
) -> _Round:
    copied = 0.0 if upshot_first else await other.copy(chapter)
    evaluated = await events_per_second(bench, upshot, chapter)
    return _Round(evaluated=evaluated, copied=copied or await other.copy(chapter))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Events a second of one chapter: until all are stored, and until the last of its runs."""

    stored: float
    evaluated: float


async def events_per_second(bench: Bench, upshot: Upshot, chapter: Chapter) -> float:
    """Post the chapter; end to end, until the last of its runs can be seen."""
    return (await tell(bench, upshot, chapter)).evaluated


async def tell(bench: Bench, upshot: Upshot, chapter: Chapter) -> Told:
    """Post the chapter, and wait until the last of its runs can be seen."""
    events, runs = await upshot.events(), await upshot.count("FROM runs")
    keys = await upshot.count(OPEN_KEYS)
    since = await upshot.sql.fetchval("SELECT clock_timestamp()")
    worked = await bench.post(upshot, chapter)
    await upshot.until_head()
    ended_at = await upshot.until_count(chapter.users, "FROM runs WHERE created_at >= $1", since)
    await upshot.settle()
    expect(await upshot.events() - events, chapter.length, "events stored")
    expect(await upshot.count("FROM runs") - runs, chapter.users, "runs made")
    expect(await upshot.count(OPEN_KEYS), keys, "keys open")
    return Told(
        stored=chapter.length / worked.seconds,
        evaluated=chapter.length / (ended_at - worked.started_at),
    )
