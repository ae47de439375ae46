"""API keys: a token is shown once, and only its hash is kept."""

from uuid import uuid4

import pytest

from upshot.storage import api_keys
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio


async def test_a_token_is_found_by_its_hash_and_kept_nowhere(database: Database) -> None:
    async with database.begin() as conn:
        key, token = await api_keys.create(conn, name="shop", scopes=["read", "events:write"])
        found = await api_keys.find_active(conn, api_keys.hash_of(token))
        other = await api_keys.find_active(conn, api_keys.hash_of(token + "x"))
        row = str((await conn.exec_driver_sql("SELECT * FROM api_keys")).one())
    assert token.startswith("upk_")
    assert found == key
    assert key.scopes == {"read", "events:write"}
    assert other is None
    assert token.removeprefix("upk_") not in row


async def test_a_revoked_key_opens_nothing_and_stays_listed(database: Database) -> None:
    async with database.begin() as conn:
        assert not await api_keys.any_active(conn)
        key, token = await api_keys.create(conn, name="shop", scopes=["admin"])
        assert await api_keys.any_active(conn)
        assert await api_keys.revoke(conn, key.id)
        assert not await api_keys.revoke(conn, key.id)
        assert not await api_keys.revoke(conn, uuid4())
        assert not await api_keys.any_active(conn)
        assert await api_keys.find_active(conn, api_keys.hash_of(token)) is None
        (listed,) = await api_keys.list_all(conn)
    assert listed.revoked_at is not None


def test_hashing_takes_any_text() -> None:
    assert len(api_keys.hash_of("\udcff\0ключ")) == 32
