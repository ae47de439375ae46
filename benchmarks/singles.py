"""Singles: posts of one event a second, against an endpoint that keeps nothing."""

from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.figures import CORES, PER_SECOND, RATIO, Figure, Measured, ratios
from benchmarks.load import Post, Worked
from benchmarks.plain import Count, Counted
from benchmarks.processes import Child, child, expect
from benchmarks.product import Upshot, serving
from benchmarks.story import Chapter, Story

USERS = 3_000
CONNECTIONS = 64
MARK = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    upshot: Worked
    plain: Worked


async def measure(bench: Bench) -> Measured:
    users = bench.amount(USERS)
    story = Story(open_keys=users)
    async with serving() as upshot, child("benchmarks.plain") as plain:
        rounds = [
            await _round(bench, upshot, plain, story.chapter(users), upshot_first=first)
            for first in bench.in_turn()
        ][1:]
    ours = tuple(2 * users / one.upshot.seconds for one in rounds)
    plains = tuple(2 * users / one.plain.seconds for one in rounds)
    load = tuple(one.upshot.cpu_seconds / one.upshot.seconds for one in rounds)
    return Measured(
        name="singles",
        title="Singles: posts of one event, each answered after its commit",
        note="The plain endpoint is FastAPI, on the same uvicorn settings: it parses the body, "
        "answers 201 and keeps nothing.",
        settings={"connections": CONNECTIONS, "posts_per_round": 2 * users},
        figures=(
            Figure(
                name="posts, of the plain endpoint's",
                unit=RATIO,
                rounds=ratios(ours, plains),
                at_least=MARK,
            ),
            Figure(name="posts", unit=PER_SECOND, rounds=ours),
            Figure(name="plain endpoint", unit=PER_SECOND, rounds=plains),
            Figure(name="load generator", unit=CORES, rounds=load),
        ),
    )


async def _round(
    bench: Bench, upshot: Upshot, plain: Child, chapter: Chapter, *, upshot_first: bool
) -> _Round:
    plainly = None if upshot_first else await _plain(bench, plain, chapter)
    before = await upshot.events()
    ours = await bench.load.ask(_posts(upshot.port, chapter), Worked)
    await upshot.settle()
    expect(await upshot.events() - before, chapter.length, "events stored")
    return _Round(upshot=ours, plain=plainly or await _plain(bench, plain, chapter))


async def _plain(bench: Bench, plain: Child, chapter: Chapter) -> Worked:
    before = (await plain.ask(Count(), Counted)).requests
    worked = await bench.load.ask(_posts(plain.port, chapter), Worked)
    answered = (await plain.ask(Count(), Counted)).requests - before
    expect(answered, chapter.length, "posts answered by the plain endpoint")
    return worked


def _posts(port: int, chapter: Chapter) -> Post:
    return Post(port=port, connections=CONNECTIONS, batch=1, chapter=chapter)
