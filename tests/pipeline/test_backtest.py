"""Backtests over a real log: bounded, gone on with, and as if the trigger had been there."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.core import build
from tests.storage.test_replay import append, at
from upshot.core.errors import Conflict, Overloaded
from upshot.core.limits import (
    BACKTEST_HELD_FOR,
    BACKTESTS_AT_ONCE_MAX,
    BACKTESTS_HELD_KEYS_MAX,
    BACKTESTS_HELD_MAX,
)
from upshot.pipeline.backtest import Backtests, Page, Running, Tried
from upshot.pipeline.firing import Defaults
from upshot.storage import log
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

CREATED, COMPLETE = "order.created", "order.complete"
SHOP: dict[str, Any] = {"after": [CREATED], "expect": [COMPLETE], "for_each": ["id"]}
USER = {"user": "{{ event.resource.id }}"}


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[asyncpg.Connection]:
    reader = await database.connect(**log.READER_SETTINGS)
    yield reader
    await reader.close()


def tried(
    number: int = 1,
    *,
    parameters: dict[str, Any] | None = None,
    defaults: dict[str, Any] | None = None,
    schema: dict[str, Any] | None = None,
    **fields: Any,
) -> Tried:
    trigger = build.trigger(number, parameters=parameters or USER, **{**SHOP, **fields})
    given = Defaults(json.dumps(defaults or {}), None if schema is None else json.dumps(schema))
    return Tried(trigger, {"d": given})


def running(new: Tried, old: Tried | None = None, **more: Any) -> Running:
    times = {"since": at(0), "until": at(60), **more}
    return Running(new, old, retention=timedelta(days=90), **times)


async def all_pages(
    conn: asyncpg.Connection, backtest: Running, *, limit: int = 100, **more: Any
) -> list[Page]:
    pages = [await backtest.page(conn, limit=limit, **more)]
    while not pages[-1].is_over:
        pages.append(await backtest.page(conn, limit=limit, **more))
    return pages


def users(*pages: Page) -> list[str]:
    return [item.key[0] for page in pages for item in page.items]


class Clock:
    """Each look at it takes a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._now = 0.0

    def __call__(self) -> float:
        self._now += self._seconds
        return self._now


async def story(conn: asyncpg.Connection, *, orders: int, minutes: float = 1) -> None:
    """Orders that are created and complete, one after the other."""
    for number in range(orders):
        user = f"{number:03}"
        await append(conn, 2 * number + 1, minutes=minutes, name=CREATED, resource_id=user)
        await append(conn, 2 * number + 2, minutes=minutes, name=COMPLETE, resource_id=user)


async def test_a_firing_is_told_with_its_events_and_parameters(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await append(conn, 1, minutes=1, name=CREATED, payload='{"n": 1}')
    await append(conn, 2, minutes=2, name="other")
    await append(conn, 3, minutes=3, name=COMPLETE, payload='{"n": 3}')
    await append(conn, 4, minutes=4, name=CREATED, resource_id="456")
    parameters = {
        "opened": "{{ after.payload.n }}",
        "counted": "{{ events[0].payload.n }}",
        "name": "{{ trigger.name }}",
    }
    backtest = running(tried(parameters=parameters, defaults={"a": 1, "name": "b"}))
    (page,) = await all_pages(reader, backtest)
    (item,) = page.items
    assert (item.at, item.key, item.only, item.error) == (at(3), ("123",), None, None)
    assert item.labels == {"prefect.resource.id": "123"}
    assert json.loads(item.event or "")["id"] == str(UUID(int=3))
    assert item.event_ids == [UUID(int=3)]
    assert json.loads(item.parameters or "") == {"a": 1, "opened": 1, "counted": 3, "name": "t1"}
    assert (page.events, page.concerned, page.open_keys, page.same) == (4, 3, 1, None)
    assert (page.reached, page.is_over) == (at(60), True)


async def test_events_are_taken_from_the_log_when_a_key_opened_long_before(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await append(conn, 1, minutes=1, name=CREATED, payload='{"n": 1}')
    for number in range(100, 300):
        await append(conn, number, minutes=2, resource_id=f"{number}")
    await append(conn, 2, minutes=3, name=COMPLETE)
    backtest = running(tried(parameters={"opened": "{{ after.payload.n }}"}))
    (page,) = await all_pages(reader, backtest)
    assert [item.parameters for item in page.items] == ['{"opened":1}']


async def test_an_absence_fires_at_its_time_even_after_the_last_event(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await append(conn, 1, minutes=1, name=CREATED, resource_id="a", payload='{"n": 1}')
    await append(conn, 2, minutes=10, name=CREATED, resource_id="b")
    await append(conn, 3, minutes=50, name=CREATED, resource_id="c")
    missed = tried(posture="Proactive", within=1_200)
    (page,) = await all_pages(reader, running(missed))
    assert [(item.at, item.key) for item in page.items] == [
        (at(21), ("a",)),
        (at(30), ("b",)),
    ]
    assert json.loads(page.items[0].event or "")["payload"] == {"n": 1}
    assert page.open_keys == 1


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_page_by_page_it_finds_what_it_finds_at_once(
    conn: asyncpg.Connection, reader: asyncpg.Connection, limit: int
) -> None:
    await story(conn, orders=5)
    (whole,) = await all_pages(reader, running(tried()))
    pages = await all_pages(reader, running(tried()), limit=limit)
    assert [item for page in pages for item in page.items] == whole.items
    assert [len(page.items) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert [page.open_keys for page in pages[:-1]] == [None] * (len(pages) - 1)
    assert (pages[-1].events, pages[-1].concerned) == (whole.events, whole.concerned) == (10, 10)


@pytest.mark.parametrize("number", [2, 4, 7, 10])
async def test_an_event_that_nobody_wants_is_waited_for_over_what_is_read_at_once(
    conn: asyncpg.Connection, reader: asyncpg.Connection, number: int
) -> None:
    await append(conn, 0, minutes=0, name=CREATED)
    await append(conn, 1, minutes=1, name=COMPLETE, follows=UUID(int=number))
    for other in range(2, 15):
        await append(conn, other, minutes=other, name="other")
    (page,) = await all_pages(reader, running(tried(), read_max=3))
    assert ([item.at for item in page.items], page.events) == ([at(number)], 15)


@pytest.mark.parametrize("read_max", [1, 2, 5])
async def test_however_much_is_read_at_once_it_finds_and_counts_the_same(
    conn: asyncpg.Connection, reader: asyncpg.Connection, read_max: int
) -> None:
    chance = random.Random(read_max)
    for number in range(1, 60):
        follows = UUID(int=chance.randint(1, 65)) if chance.random() < 0.2 else None
        await append(
            conn,
            number,
            minutes=number / 2 + chance.choice((0, -1)),
            name=chance.choice((CREATED, COMPLETE, "other", "another")),
            resource_id=chance.choice("ab"),
            follows=follows,
        )
    expected = await all_pages(reader, running(tried()), limit=2)
    assert len(expected) > 3
    assert await all_pages(reader, running(tried(), read_max=read_max), limit=2) == expected


class Lost:
    """A connection that is lost at one of its reads."""

    def __init__(self, conn: asyncpg.Connection, *, at: int) -> None:
        self._conn = conn
        self._reads_left = at

    async def fetch(self, *args: Any) -> list[asyncpg.Record]:
        self._reads_left -= 1
        if not self._reads_left:
            raise asyncpg.ConnectionDoesNotExistError
        found: list[asyncpg.Record] = await self._conn.fetch(*args)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)


async def test_what_could_not_be_read_ahead_is_read_for_the_next_page(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await story(conn, orders=3)
    backtest = running(tried(), read_max=2)
    page = await backtest.page(Lost(reader, at=2), limit=1)
    assert users(page, *await all_pages(reader, backtest)) == ["000", "001", "002"]


async def test_alarms_without_end_are_cut_into_pages_too(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await append(conn, 1, minutes=-1)
    switch = tried(after=[], for_each=[], posture="Proactive", within=60, parameters={"a": 1})
    backtest = running(switch)
    page = await backtest.page(reader, limit=7)
    assert [item.at for item in page.items] == [at(minute) for minute in range(1, 8)]
    assert page.reached < at(60)
    rest = await all_pages(reader, backtest)
    assert [item.at for page in rest for item in page.items][-1] == at(60)


async def test_a_page_ends_when_its_time_is_up(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await story(conn, orders=100)
    backtest = running(tried(), clock=Clock(0.001))
    pages = await all_pages(reader, backtest, seconds=0.01)
    assert len(pages) > 5
    assert len(users(*pages)) == 100


async def test_others_have_their_turn_again_and_again(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await story(conn, orders=1_000)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    waiting = asyncio.create_task(others())
    # Nothing fires, so that only slices of work are between their turns.
    await all_pages(reader, running(tried(expect=["order.paid"]), clock=Clock(0.004)))
    waiting.cancel()
    assert turns >= 2_000 / 100


async def test_it_stops_when_it_would_have_to_remember_too_much(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    for number in range(1, 200):
        await append(conn, number, minutes=number / 10, resource_id=f"{number}")
    (page,) = await all_pages(reader, running(tried(), keys_max=20))
    assert page.is_over
    assert page.reached < at(60)
    assert page.note is not None
    assert "stopped early" in page.note


async def test_what_differs_from_another_trigger_is_rendered_with_its_own_parameters(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await story(conn, orders=3)
    new = tried(1, match={"id": ["000", "001"]}, parameters={"a": "new"})
    old = tried(2, match={"id": ["001", "002"]}, parameters={"a": "old"})
    (page,) = await all_pages(reader, running(new, old))
    assert [(item.only, item.parameters) for item in page.items] == [
        ("new", '{"a":"new"}'),
        ("old", '{"a":"old"}'),
    ]
    assert page.same == 1


async def test_heavy_templates_are_rendered_in_a_process_of_their_own(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await story(conn, orders=2)
    heavy = {"a": "{% for one in events %}{{ one.event }}{% endfor %}"}
    backtest = running(tried(parameters=heavy, schema={"properties": {"a": {"maxLength": 3}}}))
    (page,) = await all_pages(reader, backtest)
    assert [item.parameters for item in page.items] == [None, None]
    assert "schema" in (page.items[0].error or "")
    (page,) = await all_pages(reader, running(tried(parameters=heavy)))
    assert [json.loads(item.parameters or "") for item in page.items] == [{"a": COMPLETE}] * 2


async def test_what_cannot_be_rendered_says_why(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await story(conn, orders=1)
    (page,) = await all_pages(reader, running(tried(parameters={"a": "{{ event.payload.no }}"})))
    (item,) = page.items
    assert item.parameters is None
    assert "no" in (item.error or "")


async def test_an_event_waits_for_the_one_it_follows_whether_that_is_wanted_or_not(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    first, second = UUID(int=1), UUID(int=2)
    await append(conn, 1, minutes=-1, name="unwanted")
    await append(conn, 3, minutes=1, name=COMPLETE, resource_id="a", follows=second)
    await append(conn, 4, minutes=1, name=CREATED, resource_id="a", follows=first)
    await append(conn, 5, minutes=1, name=COMPLETE, resource_id="b", follows=UUID(int=99))
    await append(conn, 6, minutes=1, name=CREATED, resource_id="b")
    await append(conn, 2, minutes=2, name="unwanted")
    parameters = {"at": "{{ event.received }}"}
    (page,) = await all_pages(reader, running(tried(parameters=parameters, lateness=0)))
    # Without waiting, neither order would be complete after it is created.
    assert [(item.at, item.key) for item in page.items] == [
        (at(2), ("a",)),
        (at(16), ("b",)),
    ]
    assert json.loads(page.items[0].parameters or "") == {"at": f"{at(1):%Y-%m-%dT%H:%M:%SZ}"}


async def test_the_log_s_beginning_is_told_where_it_is_later_than_the_span_s(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    (page,) = await all_pages(reader, running(tried()))
    assert (page.note, page.items) == ("There are no events at all.", [])
    await append(conn, 1, minutes=5)
    (page,) = await all_pages(reader, running(tried()))
    assert page.note is not None
    assert at(5).isoformat() in page.note
    (page,) = await all_pages(reader, running(tried(), since=at(5)))
    assert page.note is None


@pytest.fixture
def held() -> tuple[Backtests, Callable[[timedelta], None]]:
    """What holds backtests, and its clock."""
    now = datetime(2026, 5, 4, tzinfo=UTC)

    def advance(by: timedelta) -> None:
        nonlocal now
        now += by

    return Backtests(lambda: now), advance


Held = tuple[Backtests, Callable[[timedelta], None]]


def test_a_token_goes_on_once(held: Held) -> None:
    backtests, _ = held
    backtest = running(tried())
    token = backtests.hold(backtest)
    assert backtests.take(token) is backtest
    with pytest.raises(Conflict, match="Begin again"):
        backtests.take(token)


def test_a_token_goes_on_for_ten_minutes(held: Held) -> None:
    backtests, advance = held
    one, other = backtests.hold(running(tried())), backtests.hold(running(tried()))
    advance(BACKTEST_HELD_FOR - timedelta(seconds=1))
    backtests.take(one)
    advance(timedelta(seconds=1))
    with pytest.raises(Conflict):
        backtests.take(other)


def test_of_many_the_oldest_is_dropped(held: Held) -> None:
    backtests, _ = held
    tokens = [backtests.hold(running(tried())) for _ in range(BACKTESTS_HELD_MAX + 1)]
    with pytest.raises(Conflict):
        backtests.take(tokens[0])
    for token in tokens[1:]:
        backtests.take(token)


class Large(Running):
    """One that remembers as much as all may together."""

    remembered = BACKTESTS_HELD_KEYS_MAX


def test_large_ones_are_held_one_at_a_time(held: Held) -> None:
    backtests, _ = held

    def large() -> Running:
        return Large(tried(), None, since=at(0), until=at(60), retention=timedelta(days=90))

    small = backtests.hold(running(tried()))
    first = backtests.hold(large())
    backtests.take(first)
    tokens = [backtests.hold(large()), backtests.hold(large())]
    for gone in (small, tokens[0]):
        with pytest.raises(Conflict):
            backtests.take(gone)
    backtests.take(tokens[1])


def test_a_few_at_once_run_and_another_is_told_to_come_again(held: Held) -> None:
    backtests, _ = held

    def run(several: int) -> None:
        with backtests.another():
            if several > 1:
                run(several - 1)

    with pytest.raises(Overloaded, match="running"):
        run(BACKTESTS_AT_ONCE_MAX + 1)
    run(BACKTESTS_AT_ONCE_MAX)
