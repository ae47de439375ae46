"""Connections that are kept for a moment."""

import asyncpg
import pytest

from upshot.storage.database import Database

pytestmark = pytest.mark.anyio


async def test_a_reader_is_kept_for_who_comes_next(database: Database) -> None:
    async with database.reader() as first:
        settings = await first.fetchval("SELECT current_setting('plan_cache_mode')")
        of_first = await _backend_of(first)
        async with database.reader() as second:
            assert await _backend_of(second) != of_first
    assert settings == "force_generic_plan"
    async with database.reader() as third:
        assert await _backend_of(third) == of_first


async def test_a_reader_that_was_ended_is_replaced(database: Database) -> None:
    async with database.reader() as first:
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.PostgresConnectionError)):
            await first.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    async with database.reader() as second:
        assert await second.fetchval("SELECT 1") == 1


async def _backend_of(conn: asyncpg.Connection) -> int:
    number: int = await conn.fetchval("SELECT pg_backend_pid()")
    return number
