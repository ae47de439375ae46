"""A disk that is full: Postgres answers every insert into a table with SQLSTATE 53100."""

import asyncpg


async def fill(conn: asyncpg.Connection, table: str) -> None:
    await conn.execute(
        "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$"
    )
    await conn.execute(
        f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION full_disk()"
    )


async def empty(conn: asyncpg.Connection, table: str) -> None:
    await conn.execute(f"DROP TRIGGER full_disk ON {table}")
