"""Deadlines by a live server, scaled down."""

from datetime import timedelta

import pytest

from tests.proofs import deadlines

pytestmark = pytest.mark.anyio


async def test_alarms_all_come_once_at_a_rate_in_a_burst_and_though_the_server_is_killed(
    database_url: str,
) -> None:
    seen = await deadlines.prove(
        database_url,
        per_second=200,
        seconds=1,
        burst=2_000,
        killed=300,
        down=timedelta(seconds=1),
    )
    assert seen.late > timedelta(0), "an alarm came before its deadline"
