"""The shop's deployment and trigger in a database, its story told at random, and a model of it."""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from upshot.core.delivery import Webhook
from upshot.core.intake import Ids, NewEvent
from upshot.storage import deployments, log, triggers
from upshot.storage.database import Database
from upshot.storage.deployments import DeploymentFields

CREATED, COMPLETE = "order.created", "order.complete"

SHOP: dict[str, Any] = {
    "after": [CREATED],
    "expect": [COMPLETE],
    "for_each": ["prefect.resource.id"],
    "parameters": {"user_id": "{{ event.resource.id }}"},
}
EVERY_EVENT: dict[str, Any] = {"expect": ["*"]}

new_id = Ids(random=random.randbytes, clock=time.time_ns)


@dataclass(frozen=True, slots=True)
class Step:
    """One event of the story."""

    id: UUID
    name: str
    user: str


async def register(
    database: Database, *, url: str = "http://127.0.0.1:9/run", **condition: Any
) -> UUID:
    """A deployment with that runner and a trigger `t` with that condition; answers its id."""
    fields = DeploymentFields(
        description="",
        tags=[],
        runner=Webhook(url=url),
        parameters={},
        parameter_schema=None,
        max_concurrency=8,
        run_timeout=timedelta(hours=1),
        overlap="allow",
        enabled=True,
    )
    document = {"type": "event", "deployment": "d", "enabled": True, **condition}
    async with database.begin() as conn:
        await deployments.create(conn, name="d", deployment_id=uuid4(), fields=fields)
        trigger = await triggers.create(conn, trigger_id=uuid4(), name="t", document=document)
        assert trigger is not None
        await triggers.append_saved(conn, trigger, keys="forget", condition_changed=True)
    return trigger.id


def story(chance: random.Random, *, users: Sequence[str], length: int) -> list[Step]:
    """So many events of these users, creating and completing in no sensible order."""
    return [
        Step(id=new_id(), name=chance.choice((CREATED, COMPLETE)), user=chance.choice(users))
        for _ in range(length)
    ]


def new_event(step: Step) -> NewEvent:
    """The step, as ingest appends it."""
    return NewEvent(
        id=step.id,
        id_given=False,
        digest=None,
        name=step.name,
        resource_id=step.user,
        labels_json=None,
        related_json=None,
        payload_json=None,
        occurred=datetime.now(UTC),
        follows=None,
        size=100,
    )


def firing_events(steps: Iterable[Step]) -> set[UUID]:
    """A model of the shop's trigger: which events fire it, told from the whole story at once."""
    open_users: set[str] = set()
    fired: set[UUID] = set()
    for step in steps:
        if step.name == CREATED:
            open_users.add(step.user)
        elif step.user in open_users:
            open_users.remove(step.user)
            fired.add(step.id)
    return fired


async def append_slowly(
    conn: asyncpg.Connection, steps: Sequence[Step], *, open_seconds: float
) -> None:
    """Append in a transaction that stays open for a while before it commits."""
    async with conn.transaction():
        await log.append(conn, [new_event(step) for step in steps])
        if open_seconds:
            await conn.execute("SELECT pg_sleep($1)", open_seconds)


async def events_with_runs(conn: asyncpg.Connection) -> list[UUID]:
    """The event of every run, one a run."""
    return [row["event_id"] for row in await conn.fetch("SELECT event_id FROM runs")]
