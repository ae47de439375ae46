"""`emit_event` through a server's restart."""

import pytest

from tests.sdk import emitting

pytestmark = pytest.mark.anyio

BLOCKED_SECONDS_MAX = 0.5
"""A call takes microseconds; on a busy machine a process may not run for a while."""


async def test_5000_events_emitted_through_a_restart_are_stored_once_and_none_waits(
    database_url: str,
) -> None:
    slowest = await emitting.prove(
        database_url, events=5_000, away_seconds=1.0, pace_seconds=0.0005
    )
    assert slowest < BLOCKED_SECONDS_MAX
