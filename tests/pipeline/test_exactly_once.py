"""The proofs of exactly-once evaluation, scaled down."""

import pytest

from tests.proofs import evaluated_once, killed
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio


async def test_every_event_is_evaluated_once_whatever_the_order_of_commits(
    database: Database,
) -> None:
    assert await evaluated_once.prove(database, posts_each=40, seed=1) > 16 * 40


async def test_evaluators_killed_again_and_again_make_the_runs_of_the_model(
    database: Database, database_url: str
) -> None:
    assert await killed.prove(database, database_url, events=1_000, kills=4, seed=1) >= 1_000
