"""Acknowledged is stored, and stored is evaluated."""

import pytest

from tests.proofs import acknowledged

pytestmark = pytest.mark.anyio


async def test_nothing_of_2000_acknowledged_events_is_missing_after_a_kill_amid_posting(
    database_url: str,
) -> None:
    assert await acknowledged.prove(database_url, events=2_000, seed=1) >= 2_000
