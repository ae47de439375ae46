"""The list of open keys: its orders, pages and filters, and what it costs among many."""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.keys import key_hash
from upshot.core.patterns import parse_pattern
from upshot.storage import keys, windows
from upshot.storage.database import Database
from upshot.storage.keys import KeyFilter, KeyPage, OpenKey, Place, Sort
from upshot.storage.windows import StoredWindow

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)
ALL = KeyFilter()
MANY = 50_000
SCANNED_MAX = 500
MANY_SQL = f"""
    INSERT INTO windows
        (trigger_number, node, key_hash, key, state, forgotten_at, started_at, deadline_at, alarms)
    SELECT 1 + n % 2, n / 2 % 2, md5(n::text)::uuid, json_build_array('user-' || n)::text, '[]',
           now(), now() - n * interval '1 second', now() + (n - 10000) * interval '1 second',
           n % 5 = 0 AND n > 10000
      FROM generate_series(1, {MANY}) AS n
"""


def window(
    *key: str,
    number: int = 1,
    node: int = 0,
    state: str = "[]",
    started: float | None = 0,
    deadline: float | None = None,
    alarms: bool = False,
) -> StoredWindow:
    """A window of a key; times are seconds from now."""
    return StoredWindow(
        trigger_number=number,
        node=node,
        key_hash=key_hash(key),
        key=json.dumps(key),
        state=state,
        started_at=None if started is None else NOW + timedelta(seconds=started),
        deadline_at=None if deadline is None else NOW + timedelta(seconds=deadline),
        alarms=alarms,
        forgotten_at=NOW,
    )


async def listed(
    database: Database,
    wanted: KeyFilter = ALL,
    *,
    sort: Sort = "age",
    after: Place | None = None,
    **bounds: Any,
) -> KeyPage:
    async with database.begin() as conn:
        return await keys.page(
            conn, 1, wanted, now=NOW, sort=sort, after=after, **{"limit": 100, **bounds}
        )


async def all_pages(database: Database, wanted: KeyFilter = ALL, **more: Any) -> list[KeyPage]:
    pages: list[KeyPage] = []
    after = None
    while not pages or after is not None:
        pages.append(await listed(database, wanted, after=after, **more))
        after = pages[-1].after
    return pages


def names(found: Sequence[OpenKey]) -> list[str]:
    return [json.loads(one.key)[0] for one in found]


async def test_the_oldest_come_first_and_those_of_other_triggers_do_not(
    database: Database, conn: asyncpg.Connection
) -> None:
    await windows.save(
        conn,
        [
            window("second", started=-5),
            window("first", started=-9),
            window("third", started=-1),
            window("other", number=2),
        ],
    )
    assert names((await listed(database)).keys) == ["first", "second", "third"]


async def test_by_deadline_the_next_to_end_comes_first_and_what_has_none_is_left_out(
    database: Database, conn: asyncpg.Connection
) -> None:
    await windows.save(
        conn, [window("later", deadline=9), window("endless"), window("soon", deadline=5)]
    )
    assert names((await listed(database, sort="deadline")).keys) == ["soon", "later"]


@pytest.mark.parametrize("sort", ["age", "deadline"])
async def test_a_key_that_only_remembers_what_closed_it_is_not_listed(
    database: Database, conn: asyncpg.Connection, sort: Sort
) -> None:
    await windows.save(conn, [window("closed", started=None, deadline=5), window("a", deadline=5)])
    assert names((await listed(database, sort=sort)).keys) == ["a"]


@pytest.mark.parametrize("sort", ["age", "deadline"])
async def test_what_is_over_is_not_listed_and_an_alarm_is_not_over_until_it_is_given(
    database: Database, conn: asyncpg.Connection, sort: Sort
) -> None:
    await windows.save(
        conn,
        [
            window("over", deadline=-5),
            window("just over", deadline=0),
            window("overdue", deadline=-5, alarms=True),
            window("open", deadline=0.001),
        ],
    )
    assert sorted(names((await listed(database, sort=sort)).keys)) == ["open", "overdue"]


@pytest.mark.parametrize("sort", ["age", "deadline"])
async def test_pages_hold_every_key_once_also_those_of_one_instant(
    database: Database, conn: asyncpg.Connection, sort: Sort
) -> None:
    stored = [
        window(str(n), node=node, started=n // 7, deadline=1 + n // 7)
        for n in range(21)
        for node in (0, 1)
    ]
    await windows.save(conn, stored)
    pages = await all_pages(database, sort=sort, limit=5)
    found = [one for page in pages for one in page.keys]
    assert [len(page.keys) for page in pages] == [5] * 8 + [2]
    assert sorted((one.node, one.key) for one in found) == sorted(
        (one.node, one.key) for one in stored
    )
    assert [one.place for one in found] == sorted(one.place for one in found)


async def test_a_key_is_found_at_every_node_by_its_hash(
    database: Database, conn: asyncpg.Connection
) -> None:
    stored = [window(name, node=node, started=-node) for name in "ab" for node in (0, 1, 100)]
    await windows.save(conn, stored)
    found = (await listed(database, KeyFilter(hash=key_hash(("a",))))).keys
    assert [(one.key, one.node) for one in found] == [('["a"]', 100), ('["a"]', 1), ('["a"]', 0)]
    assert (await listed(database, KeyFilter(hash=uuid4()))).keys == []


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("user-1", ["user-1"]),
        ("user-*", ["user-1", "user-12"]),
        ("*", ["user-1", "user-12", 'q"\\é', "100%"]),
        ("b*r*in", ["user-12"]),
        ("100%", ["100%"]),
        ("%", []),
        ("user_1", []),
        ('*"\\*', ['q"\\é']),
        ("USER-1", []),
    ],
)
async def test_a_pattern_matches_any_value_of_the_key(
    database: Database, conn: asyncpg.Connection, pattern: str, found: list[str]
) -> None:
    stored = [("user-1", "paris"), ("user-12", "berlin"), ('q"\\é', "x"), ("100%", "y")]
    await windows.save(conn, [window(*key, started=n) for n, key in enumerate(stored)])
    wanted = KeyFilter(value=parse_pattern(pattern))
    assert names((await listed(database, wanted)).keys) == found
    both = KeyFilter(hash=key_hash(stored[0]), value=parse_pattern(pattern))
    assert names((await listed(database, both)).keys) == [n for n in found if n == "user-1"]


async def test_a_page_looks_through_a_bounded_number_of_keys_and_says_where_to_go_on(
    database: Database, conn: asyncpg.Connection
) -> None:
    await windows.save(conn, [window(str(n), started=n) for n in range(35)])
    pages = await all_pages(database, KeyFilter(value=parse_pattern("3*")), scan_max=10)
    assert [names(page.keys) for page in pages] == [["3"], [], [], ["30", "31", "32", "33", "34"]]


async def test_what_is_over_counts_as_looked_through_by_age_and_not_by_deadline(
    database: Database, conn: asyncpg.Connection
) -> None:
    await windows.save(conn, [window(str(n), started=n, deadline=n - 20) for n in range(25)])
    pages = await all_pages(database, scan_max=10)
    assert [names(page.keys) for page in pages] == [[], [], ["21", "22", "23", "24"]]
    (page,) = await all_pages(database, scan_max=10, sort="deadline")
    assert names(page.keys) == ["21", "22", "23", "24"]


async def test_a_page_reads_a_bounded_number_of_bytes_and_at_least_one_key(
    database: Database, conn: asyncpg.Connection
) -> None:
    await windows.save(
        conn, [window(str(n), started=n, state="x" * size) for n, size in enumerate((9, 90, 9, 9))]
    )
    pages = await all_pages(database, bytes_max=20)
    assert [names(page.keys) for page in pages] == [["0", "1"], ["2", "3"]]
    assert [names(page.keys) for page in await all_pages(database, bytes_max=1)] == [
        [str(n)] for n in range(4)
    ]


async def test_a_key_is_open_while_anything_is_open_for_it_at_any_node(
    database: Database, conn: asyncpg.Connection
) -> None:
    await windows.save(
        conn,
        [
            window("root"),
            window("child", node=7),
            window("closed", started=None),
            window("over", deadline=-1),
        ],
    )
    async with database.begin() as asking:
        open_keys = {
            name: await keys.is_open(asking, 1, key_hash((name,)), now=NOW)
            for name in ("root", "child", "closed", "over", "unknown")
        }
        assert not await keys.is_open(asking, 2, key_hash(("root",)), now=NOW)
    assert open_keys == {
        "root": True,
        "child": True,
        "closed": False,
        "over": False,
        "unknown": False,
    }


async def test_what_is_in_force_is_what_the_evaluator_goes_by(
    database: Database, conn: asyncpg.Connection
) -> None:
    known = uuid4()
    await conn.execute(
        "INSERT INTO triggers_in_force (id, number, version, document) VALUES ($1, 1, 3, $2)",
        known,
        '{"name": "t"}',
    )
    async with database.begin() as asking:
        assert await keys.in_force(asking, known) == keys.InForce(3, {"name": "t"})
        assert await keys.in_force(asking, uuid4()) is None


async def test_all_that_is_read_is_of_one_moment(
    database: Database, conn: asyncpg.Connection
) -> None:
    async with database.begin() as asking:
        await keys.see_one_moment(asking)
        before = await keys.is_open(asking, 1, key_hash(("a",)), now=NOW)
        await windows.save(conn, [window("a")])
        assert (before, await keys.is_open(asking, 1, key_hash(("a",)), now=NOW)) == (False, False)


Ask = Callable[[AsyncConnection], Awaitable[Any]]


@pytest.fixture
async def many(conn: asyncpg.Connection) -> None:
    await conn.execute(MANY_SQL)
    await conn.execute("ANALYZE windows")


@pytest.mark.parametrize(
    ("ask", "index", "read_by"),
    [
        (lambda conn: page(conn, sort="age"), "windows_by_age", []),
        (lambda conn: page(conn, sort="deadline"), "windows_by_deadline", ["deadline_at >="]),
        (
            lambda conn: page(conn, sort="age", after=(NOW, 0, UUID(int=5))),
            "windows_by_age",
            ["ROW(started_at, node, key_hash) >"],
        ),
        (
            lambda conn: page(conn, sort="deadline", after=(NOW, 0, UUID(int=5))),
            "windows_by_deadline",
            ["ROW(deadline_at, node, key_hash) >"],
        ),
        (
            lambda conn: page(conn, KeyFilter(value=parse_pattern("user-4*")), sort="age"),
            "windows_by_age",
            [],
        ),
        (
            lambda conn: page(conn, KeyFilter(hash=UUID(int=5)), sort="age"),
            "windows_pkey",
            ["node = ANY", "key_hash ="],
        ),
        (
            lambda conn: page(conn, KeyFilter(hash=UUID(int=5)), sort="deadline"),
            "windows_pkey",
            ["node = ANY", "key_hash ="],
        ),
        (
            lambda conn: keys.is_open(conn, 1, UUID(int=5), now=NOW),
            "windows_pkey",
            ["node = ANY", "key_hash ="],
        ),
    ],
)
@pytest.mark.usefixtures("many")
async def test_among_many_keys_hardly_more_is_read_than_is_shown(
    database: Database, ask: Ask, index: str, read_by: list[str]
) -> None:
    for plan in await plans_of(database, ask):
        scans = [node for node in nodes_of(plan) if node.get("Relation Name") == "windows"]
        (scan,) = (scan for scan in scans if scan["Index Name"] == index)
        assert all(condition in scan["Index Cond"] for condition in ["trigger_number =", *read_by])
        for scan in scans:
            read = scan["Actual Rows"] * scan["Actual Loops"]
            assert read + scan.get("Rows Removed by Filter", 0) <= SCANNED_MAX


async def page(
    conn: AsyncConnection, wanted: KeyFilter = ALL, *, sort: Sort, after: Place | None = None
) -> KeyPage:
    return await keys.page(
        conn, 1, wanted, now=NOW, sort=sort, after=after, limit=50, scan_max=SCANNED_MAX
    )


async def plans_of(database: Database, ask: Ask) -> list[Any]:
    """How Postgres goes about all that is asked, and what it reads for it."""
    asked: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    async with database.begin() as asking:
        event.listen(database.engine.sync_engine, "before_cursor_execute", note)
        await ask(asking)
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)
        plans = []
        for statement, parameters in asked:
            explained = await asking.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters
            )
            ((plan,),) = explained.all()
            plans.append((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    assert plans
    return plans


def nodes_of(plan: Any) -> Iterator[Any]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes_of(below)
