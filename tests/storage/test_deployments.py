"""Deployments in the database."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.delivery import Webhook
from upshot.storage import deployments, runs, triggers
from upshot.storage.database import Database
from upshot.storage.deployments import Deployment, DeploymentFields

pytestmark = pytest.mark.anyio

RUNNER = Webhook(
    url="http://127.0.0.1:9000/run",
    headers={"a": "1"},
    secrets=("whsec_a", "whsec_b"),
    timeout=timedelta(seconds=1.5),
    retries=(0.5, 2.0),
)


def fields(**changed: Any) -> DeploymentFields:
    written: dict[str, Any] = {
        "description": "",
        "tags": [],
        "runner": RUNNER,
        "parameters": {"n": 2**64 + 1},
        "parameter_schema": None,
        "max_concurrency": 8,
        "run_timeout": timedelta(seconds=0.1),
        "overlap": "allow",
        "enabled": True,
    }
    return DeploymentFields(**{**written, **changed})


async def make(conn: AsyncConnection, name: str = "d", **changed: Any) -> Deployment:
    made = await deployments.create(
        conn, name=name, deployment_id=uuid4(), fields=fields(**changed)
    )
    assert made is not None
    return made


async def test_a_deployment_comes_back_as_it_was_stored(database: Database) -> None:
    async with database.begin() as conn:
        made = await make(conn, parameter_schema={"type": "object"})
        assert await deployments.load(conn, "d") == made
    assert made.runner == RUNNER
    assert made.parameters == {"n": 2**64 + 1}
    assert made.run_timeout == timedelta(seconds=0.1)


async def test_a_name_is_made_once(database: Database) -> None:
    async with database.begin() as conn:
        await make(conn)
        again = await deployments.create(conn, name="d", deployment_id=uuid4(), fields=fields())
    assert again is None


async def test_the_database_keeps_what_a_trigger_runs(database: Database) -> None:
    async with database.begin() as conn:
        await make(conn)
        document = {"deployment": "d", "enabled": True}
        await triggers.create(conn, trigger_id=uuid4(), name="t", document=document)
        assert await deployments.triggers_using(conn, "d", limit=10) == ["t"]
    with pytest.raises(IntegrityError):
        async with database.begin() as conn:
            await deployments.remove(conn, "d")


async def test_one_that_is_held_is_not_deleted_meanwhile(database: Database) -> None:
    async with database.begin() as conn:
        await make(conn)

    async def delete() -> None:
        async with database.begin() as conn:
            await deployments.lock(conn, "d")
            await deployments.remove(conn, "d")

    async with database.begin() as conn:
        assert await deployments.hold(conn, "d") is not None
        deleting = asyncio.create_task(delete())
        done, _ = await asyncio.wait({deleting}, timeout=0.2)
        assert not done
    await deleting


async def test_cancelling_open_runs_leaves_those_of_others(database: Database) -> None:
    async with database.begin() as conn:
        ids = [uuid4() for _ in range(3)]
        for name, run_id in zip(("d", "d", "e"), ids, strict=True):
            await runs.create_asked_for(
                conn, run_id=run_id, deployment=name, parameters={}, template=None
            )
        assert await deployments.cancel_open_runs(conn, "d", reason="why") == 2
        states = [(await runs.lock(conn, run_id)) for run_id in ids]
    assert states == ["cancelled", "cancelled", "scheduled"]
