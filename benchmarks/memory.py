"""Memory: what the server's processes hold after a million events, without their Postgres."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import BATCHED, Bench
from benchmarks.figures import MEGABYTES, Figure, Measured
from benchmarks.processes import Failed, expect
from benchmarks.product import Upshot
from benchmarks.story import Story

EVENTS = 1_000_000
CHAPTER_USERS = 40_000
ROUND_USERS = 5_000
MARK = 250
MEGABYTE = 1_000_000
FORKS = ("the API", "the rest of the line")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """In bytes: resident pages, and the same with each divided among the processes that map it."""

    name: str
    rss: int
    pss: int


_Held = tuple[_Process, ...]


async def measure(bench: Bench) -> Measured:
    story = Story(open_keys=CHAPTER_USERS)
    chapters = (bench.amount(EVENTS) - CHAPTER_USERS) // (2 * CHAPTER_USERS)
    async with bench.shop(story, enabled=False) as upshot:
        at_first = _held_by(upshot.pid)
        for _ in range(chapters):
            await _tell(bench, upshot, story, CHAPTER_USERS)
        told = await upshot.events()
        rounds = [await _round(bench, upshot, story) for _ in bench.in_turn()][1:]
        # Counted in the end, since each count reads them all.
        users = chapters * CHAPTER_USERS + (bench.rounds + 1) * ROUND_USERS
        expect(await upshot.events(), CHAPTER_USERS + 2 * users, "events stored")
        expect(await upshot.count("FROM runs"), users, "runs made")
    return Measured(
        name="memory",
        title=f"Memory: the server's processes after {told:,} events",
        note="With the shop's trigger, every second event firing; the deployment is disabled, so "
        "that the runs wait. Looked at after each round of some more. The sum is of PSS "
        "(/proc/<pid>/smaps_rollup) over `upshot serve` and all that it has started, Postgres not "
        "among them: the processes are forks, and PSS divides a page among those that map it. The "
        "pages of Python and its libraries are also mapped by the load generator and the runner, "
        "which bear a share. RSS counts every page in each process.",
        settings={
            **BATCHED,
            "events_before_the_rounds": told,
            "events_per_round": 2 * ROUND_USERS,
            "processes": len(rounds[-1]),
        },
        figures=(
            Figure(
                name="PSS of all processes",
                unit=MEGABYTES,
                rounds=tuple(_megabytes(one.pss for one in held) for held in rounds),
                at_most=MARK,
            ),
            Figure(
                name=f"PSS after the first {CHAPTER_USERS:,} events",
                unit=MEGABYTES,
                rounds=(_megabytes(one.pss for one in at_first),),
            ),
            *_figures_of_each(rounds),
        ),
    )


async def _round(bench: Bench, upshot: Upshot, story: Story) -> _Held:
    await _tell(bench, upshot, story, ROUND_USERS)
    return _held_by(upshot.pid)


async def _tell(bench: Bench, upshot: Upshot, story: Story, users: int) -> None:
    await bench.post(upshot, story.chapter(users))
    await upshot.until_head()
    await upshot.settle()


def _figures_of_each(rounds: list[_Held]) -> Iterator[Figure]:
    names = [one.name for one in rounds[0]]
    for held in rounds:
        expect([one.name for one in held], names, "processes of the server")
    for number, name in enumerate(names):
        values = tuple(_megabytes([held[number].rss]) for held in rounds)
        yield Figure(name=f"RSS of {name}", unit=MEGABYTES, rounds=values)


def _megabytes(sizes: Iterator[int] | list[int]) -> float:
    return sum(sizes) / MEGABYTE


def _held_by(pid: int) -> _Held:
    """The supervisor first, then its forks in the order of their start, then what they started.

    Raises:
        Failed: this system does not tell, or there are other processes than there should be.
    """
    if not (PROC / str(pid) / "smaps_rollup").exists():
        raise Failed("this system has no /proc/<pid>/smaps_rollup; memory is measured on Linux")
    children = _children()
    forks = sorted(children.get(pid, []))
    expect(len(forks), len(FORKS), "children of the supervisor")
    found = [_process(pid, "the supervisor")]
    found += [_process(fork, name) for fork, name in zip(forks, FORKS, strict=True)]
    started = sorted(below for fork in forks for below in _all_below(fork, children))
    return *found, *(_process(one, f"renderer {n}") for n, one in enumerate(started, start=1))


def _children() -> dict[int, list[int]]:
    """Of every process on the machine."""
    found: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it has ended
        # The name in parentheses may hold anything.
        parent = int(stat.rpartition(")")[2].split()[1])
        found.setdefault(parent, []).append(int(folder.name))
    return found


def _all_below(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    for child in children.get(pid, []):
        yield child
        yield from _all_below(child, children)


def _process(pid: int, name: str) -> _Process:
    told = dict(
        line.split(":", 1)
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    )
    return _Process(name=name, rss=_bytes(told["Rss"]), pss=_bytes(told["Pss"]))


def _bytes(told: str) -> int:
    return int(told.removesuffix("kB")) * 1024
