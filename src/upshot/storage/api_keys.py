"""API keys: random tokens of which only the hash is kept."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import func

from upshot.storage.schema import api_keys

Scope = Literal["admin", "events:write", "read", "runs"]
SCOPES: Final[tuple[Scope, ...]] = ("admin", "events:write", "read", "runs")
TOKEN_PREFIX: Final = "upk_"
_TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown: without its token, which nobody knows any more."""

    id: UUID
    name: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None


_SHOWN: tuple[Any, ...] = (
    api_keys.c.id,
    api_keys.c.name,
    api_keys.c.scopes,
    api_keys.c.created_at,
    api_keys.c.revoked_at,
)


def hash_of(token: str) -> bytes:
    """What is kept of a token. It is random, so that a plain hash does."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


async def create(
    conn: AsyncConnection, *, name: str, scopes: Sequence[Scope]
) -> tuple[ApiKey, str]:
    """Make a key; the token is in this answer and nowhere else."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    row = await conn.execute(
        insert(api_keys)
        .values(id=uuid4(), name=name, hash=hash_of(token), scopes=sorted(set(scopes)))
        .returning(*_SHOWN)
    )
    return _key(row.one()), token


async def list_all(conn: AsyncConnection) -> list[ApiKey]:
    """Every key, revoked ones too, oldest first."""
    rows = await conn.execute(select(*_SHOWN).order_by(api_keys.c.created_at, api_keys.c.id))
    return [_key(row) for row in rows]


async def revoke(conn: AsyncConnection, key_id: UUID) -> bool:
    """False: there is no such key, or it is revoked already."""
    row = await conn.execute(
        update(api_keys)
        .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(api_keys.c.id)
    )
    return row.one_or_none() is not None


async def find_active(conn: AsyncConnection, hashed: bytes) -> ApiKey | None:
    """The key of this hash, unless it is revoked."""
    row = (
        await conn.execute(
            select(*_SHOWN).where(api_keys.c.hash == hashed, api_keys.c.revoked_at.is_(None))
        )
    ).one_or_none()
    return None if row is None else _key(row)


async def any_active(conn: AsyncConnection) -> bool:
    """Whether there is a key that opens anything."""
    return bool(
        await conn.scalar(
            select(select(api_keys.c.id).where(api_keys.c.revoked_at.is_(None)).exists())
        )
    )


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=frozenset(row.scopes),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
