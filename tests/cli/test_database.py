"""`upshot migrate` and `upshot rebase` on a real database."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import pytest

from tests.cli.conftest import Command
from tests.conftest import address_of


def execute(url: str, statement: str) -> None:
    async def connect_and_execute() -> None:
        conn = await asyncpg.connect(url)
        try:
            await conn.execute(statement)
        finally:
            await conn.close()

    asyncio.run(connect_and_execute())


@pytest.fixture
def empty_url(postgres: str) -> Iterator[str]:
    """The address of a database without a schema."""
    name = f"empty_{uuid4().hex}"
    execute(postgres, f"CREATE DATABASE {name}")
    yield address_of(postgres, name)
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def test_migrating_brings_an_empty_database_to_this_versions_schema(
    empty_url: str, upshot: Command
) -> None:
    upshot.set(UPSHOT_DATABASE_URL=empty_url)
    before = upshot("key", "list")
    assert before.code == 1
    assert "Run 'upshot migrate' first" in before.err
    first = upshot("migrate")
    assert first.code == 0
    assert "The database is at schema 0004." in first.out
    assert upshot("migrate", "--json").json == {"revision": "0004"}
    assert upshot("key", "list").code == 0


def test_a_database_that_is_away_is_told_without_its_password(upshot: Command) -> None:
    upshot.set(UPSHOT_DATABASE_URL="postgresql://shop:hush@127.0.0.1:1/shop")
    for command in (("migrate",), ("rebase",), ("key", "list")):
        ended = upshot(*command)
        assert ended.code == 1
        assert "postgresql://shop:***@127.0.0.1:1/shop cannot be used" in ended.err
        assert "hush" not in ended.err


@pytest.mark.parametrize("url", ["shop", "mysql://h/d", "postgresql://u:hush@h:port/d"])
def test_an_address_that_is_none_is_told(url: str, upshot: Command) -> None:
    upshot.set(UPSHOT_DATABASE_URL=url)
    ended = upshot("migrate")
    assert ended.code == 1
    assert ended.err.startswith("Error: ")
    assert "hush" not in ended.err


def test_a_database_that_stayed_where_it_was_needs_no_rebase(
    database_url: str, upshot: Command
) -> None:
    upshot.set(UPSHOT_DATABASE_URL=database_url)
    ended = upshot("rebase")
    assert ended.code == 0
    assert ended.out.startswith("Nothing to do")


def test_a_database_from_another_cluster_is_rebased_once(
    database_url: str, upshot: Command
) -> None:
    execute(
        database_url,
        "INSERT INTO cursors (name, cluster, snapshot, position, evaluated_until, version) "
        "VALUES ('evaluate', 1, '900:900:', 0, now(), 5)",
    )
    upshot.set(UPSHOT_DATABASE_URL=database_url)
    assert upshot("rebase").out.startswith("Rebased: 0 events are evaluated, 0 wait to be.")
    assert upshot("rebase", "--json").json == {"rebased": False}
