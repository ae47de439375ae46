"""Four workers, of which one is killed again and again."""

from pathlib import Path

import pytest

from tests.sdk import workers_killed

pytestmark = pytest.mark.anyio


async def test_400_runs_through_workers_that_are_killed_complete_once_each(
    database_url: str, tmp_path: Path
) -> None:
    told = await workers_killed.prove(
        database_url, tmp_path, runs=400, kills=2, seed=1, hasten=True
    )
    assert told.runs == 400
