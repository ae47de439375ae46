"""Ingest: events stored a second over HTTP in batches, against raw COPY of the same rows."""

from dataclasses import dataclass

from benchmarks.bench import BATCHED, Bench
from benchmarks.copying import Copying, copying
from benchmarks.figures import CORES, EVENTS_PER_SECOND, RATIO, Figure, Measured, ratios
from benchmarks.processes import expect
from benchmarks.product import Upshot, serving
from benchmarks.story import Chapter, Story

USERS = 20_000
MARK = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    posted: float
    copied: float
    load: float


async def measure(bench: Bench) -> Measured:
    users = bench.amount(USERS)
    story = Story(open_keys=users)
    async with serving() as upshot, copying(upshot) as other:
        await bench.post(upshot, story.beginning)
        alone = [
            await _round(bench, upshot, other, story.chapter(users), upshot_first=first)
            for first in bench.in_turn()
        ][1:]
    story = Story(open_keys=users)
    async with bench.shop(story, enabled=False) as upshot, copying(upshot) as other:
        beside = [
            await _round(bench, upshot, other, story.chapter(users), upshot_first=first)
            for first in bench.in_turn()
        ][1:]
    return Measured(
        name="ingest",
        title="Ingest: events stored over HTTP, in batches",
        note="A 2xx comes after the commit. COPY: the same rows, the same table and indexes, one "
        "connection, commits as large as the server's greatest; the rows are made beforehand. "
        "With the trigger, the evaluator works at the same time. The load generator shares the "
        "cores; how much it takes is listed.",
        settings={**BATCHED, "events_per_round": 2 * users},
        figures=(
            *_figures("no trigger", alone, mark=MARK),
            *_figures("the shop's trigger", beside, mark=None),
        ),
    )


async def _round(
    bench: Bench, upshot: Upshot, other: Copying, chapter: Chapter, *, upshot_first: bool
) -> _Round:
    copied = 0.0 if upshot_first else await other.copy(chapter)
    before = await upshot.events()
    worked = await bench.post(upshot, chapter)
    await upshot.settle()
    expect(await upshot.events() - before, chapter.length, "events stored")
    return _Round(
        posted=chapter.length / worked.seconds,
        copied=copied or await other.copy(chapter),
        load=worked.cpu_seconds / worked.seconds,
    )


def _figures(which: str, rounds: list[_Round], *, mark: float | None) -> tuple[Figure, ...]:
    posted = tuple(one.posted for one in rounds)
    copied = tuple(one.copied for one in rounds)
    return (
        Figure(
            name=f"stored, of raw COPY ({which})",
            unit=RATIO,
            rounds=ratios(posted, copied),
            at_least=mark,
        ),
        Figure(name=f"stored ({which})", unit=EVENTS_PER_SECOND, rounds=posted),
        Figure(name=f"raw COPY ({which})", unit=EVENTS_PER_SECOND, rounds=copied),
        Figure(
            name=f"load generator ({which})",
            unit=CORES,
            rounds=tuple(one.load for one in rounds),
        ),
    )
