"""The windows of keys between database and timeline: loaded in bulk, saved where changed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from upshot.core.evaluation import deadline_of, describe, forgotten_at
from upshot.core.keys import Key, key_hash
from upshot.core.timeline import Slot, Timeline, Unreadable, slots_up
from upshot.core.triggers import Proactive, Trigger
from upshot.core.windows import Window, decode_window, encode_window
from upshot.storage import windows

_key_decoder = msgspec.json.Decoder(Key)


@dataclass(slots=True)
class Stored:
    """Which windows of a timeline are in the database, and the hashes of their keys."""

    hashes: dict[Slot, UUID] = field(default_factory=dict)
    there: set[Slot] = field(default_factory=set)


async def load(
    conn: asyncpg.Connection, timeline: Timeline, slots: Iterable[Slot], stored: Stored
) -> None:
    """Put what is stored of these windows into the timeline. One query."""
    asked = {}
    of_keys: dict[Key, UUID] = {}
    for slot in slots:
        if slot in stored.hashes:
            continue
        number, node, key = slot
        hashed = of_keys.get(key)
        if hashed is None:
            hashed = of_keys[key] = key_hash(key)
        stored.hashes[slot] = hashed
        asked[number, node, hashed] = slot
    if not asked:
        return
    rows = await windows.load(
        conn,
        numbers=[number for number, _, _ in asked],
        nodes=[node for _, node, _ in asked],
        hashes=[hashed for _, _, hashed in asked],
    )
    found = {}
    deadlines = {}
    for row in rows:
        slot = asked[row["trigger_number"], row["node"], row["key_hash"]]
        found[slot] = _read(row["state"])
        deadlines[slot] = row["deadline_at"]
    stored.there.update(found)
    timeline.load(found, not_before=deadlines)


async def load_due(
    conn: asyncpg.Connection, timeline: Timeline, rows: Sequence[asyncpg.Record], stored: Stored
) -> list[Slot]:
    """Put windows that are due into the timeline, with those of the composites above them.

    Answers the slots that nobody can decide: their trigger, or their part of it, is not in force.
    """
    found: dict[Slot, Window | Unreadable] = {}
    deadlines = {}
    above: list[Slot] = []
    lost = []
    for row in rows:
        slot = (row["trigger_number"], row["node"], _key_decoder.decode(row["key"]))
        stored.hashes[slot] = row["key_hash"]
        stored.there.add(slot)
        window = _read(row["state"])
        trigger = timeline.index.of_number(slot[0])
        if trigger is None or not _is_decidable(trigger, slot, window):
            lost.append(slot)
            continue
        found[slot], deadlines[slot] = window, row["deadline_at"]
        above += list(slots_up(trigger, trigger.nodes[slot[1]], slot[2]))[1:]
    timeline.load(found, not_before=deadlines)
    await load(conn, timeline, above, stored)
    return lost


def _is_decidable(trigger: Trigger, slot: Slot, window: Window | Unreadable) -> bool:
    if isinstance(window, Unreadable) or slot[1] >= len(trigger.nodes):
        return False
    return deadline_of(trigger.nodes[slot[1]].condition, window) is not None


async def save(
    conn: asyncpg.Connection, timeline: Timeline, stored: Stored, *, retention: timedelta
) -> None:
    """Write what is left open or remembered, remove what is neither and was stored."""
    saved, closed = [], []
    for slot, touched_at in timeline.changed.items():
        window = timeline.windows.get(slot)
        trigger = timeline.index.of_number(slot[0])
        if window is None or trigger is None:
            if slot in stored.there:
                closed.append(slot)
            continue
        if not isinstance(window, Unreadable):
            saved.append(
                _row(
                    trigger, slot, window, stored=stored, touched_at=touched_at, retention=retention
                )
            )
    if saved:
        await windows.save(conn, saved)
    if closed:
        await windows.close(
            conn,
            numbers=[slot[0] for slot in closed],
            nodes=[slot[1] for slot in closed],
            hashes=[stored.hashes[slot] for slot in closed],
        )


def _row(
    trigger: Trigger,
    slot: Slot,
    window: Window,
    *,
    stored: Stored,
    touched_at: datetime,
    retention: timedelta,
) -> windows.StoredWindow:
    condition = trigger.nodes[slot[1]].condition
    described = describe(condition, window)
    due_at = deadline_of(condition, window)
    return windows.StoredWindow(
        trigger_number=slot[0],
        node=slot[1],
        key_hash=stored.hashes.get(slot) or key_hash(slot[2]),
        key=msgspec.json.encode(slot[2]).decode(),
        state=encode_window(
            window,
            keeps_after=trigger.keeps_after,
            keeps_events=trigger.keeps_events,
            keeps_opener=isinstance(condition, Proactive),
        ),
        started_at=described.started_at,
        deadline_at=due_at or described.deadline_at,
        alarms=due_at is not None,
        forgotten_at=forgotten_at(condition, window, touched_at=touched_at, retention=retention),
    )


def _read(state: str) -> Window | Unreadable:
    try:
        return decode_window(state)
    except ValueError as error:
        return Unreadable(f"The stored window cannot be read: {error}")
