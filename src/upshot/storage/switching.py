"""Triggers paused and resumed by firings, in the evaluator's transaction."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from upshot.core.events import RESOURCE_NAME
from upshot.core.intake import NewEvent
from upshot.storage import log
from upshot.storage.triggers import SAVED


@dataclass(frozen=True, slots=True)
class Switched:
    """Which of the triggers there are, and how many changes were made."""

    there: Collection[UUID]
    changes: int


@dataclass(slots=True)
class _Trigger:
    id: UUID
    number: int
    name: str
    version: int
    document: dict[str, Any]
    is_changed: bool = False


async def set_enabled(conn: asyncpg.Connection, wanted: Sequence[tuple[UUID, bool]]) -> Switched:
    """Enable triggers, or disable them, one after the other, as a request would.

    Each change is a version with its entry in the log, and holds from that entry's place on: not
    for what is being evaluated. One that changes nothing is none.
    """
    if not wanted:
        return Switched((), 0)
    # Their names and ids stay, so that foreign keys need not wait; in order, against deadlocks.
    rows = await conn.fetch(
        "SELECT id, number, name, version, document::text AS document, now() AS now FROM triggers "
        "WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE",
        list({trigger_id for trigger_id, _ in wanted}),
    )
    triggers = {
        row["id"]: _Trigger(
            row["id"], row["number"], row["name"], row["version"], json.loads(row["document"])
        )
        for row in rows
    }
    entries = []
    for trigger_id, enabled in wanted:
        trigger = triggers.get(trigger_id)
        if trigger is not None and trigger.document["enabled"] != enabled:
            trigger.document["enabled"], trigger.is_changed = enabled, True
            trigger.version += 1
            entries.append(_entry(trigger, at=rows[0]["now"]))
    if entries:
        await _save(conn, [trigger for trigger in triggers.values() if trigger.is_changed])
        await log.append_told(conn, entries)
    return Switched(triggers.keys(), len(entries))


async def _save(conn: asyncpg.Connection, changed: Sequence[_Trigger]) -> None:
    await conn.execute(
        "UPDATE triggers AS t SET version = g.version, document = g.document::json, "
        "enabled = g.enabled, updated_at = now() "
        "FROM unnest($1::uuid[], $2::int[], $3::text[], $4::bool[]) "
        "AS g (id, version, document, enabled) WHERE t.id = g.id",
        [trigger.id for trigger in changed],
        [trigger.version for trigger in changed],
        [json.dumps(trigger.document) for trigger in changed],
        [trigger.document["enabled"] for trigger in changed],
    )


def _entry(trigger: _Trigger, *, at: datetime) -> NewEvent:
    """What `storage.triggers.append_saved` appends."""
    labels = json.dumps({RESOURCE_NAME: trigger.name})
    payload = json.dumps(
        {
            "id": str(trigger.id),
            "number": trigger.number,
            "version": trigger.version,
            "name": trigger.name,
            "document": {"name": trigger.name, **trigger.document},
            "keys": "keep",
            "condition_changed": False,
        }
    )
    return NewEvent(
        id=log.new_id(),
        id_given=False,
        digest=None,
        name=SAVED,
        resource_id=f"upshot.trigger.{trigger.id}",
        labels_json=labels,
        related_json=None,
        payload_json=payload,
        occurred=at,
        follows=None,
        size=len(payload),
    )
