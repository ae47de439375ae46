"""The windows of keys between database and timeline: loaded in bulk, saved where changed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from upshot.core.evaluation import deadline_of, forgotten_at, span_of
from upshot.core.keys import Key, key_hash
from upshot.core.timeline import Slot, Timeline, Unreadable, slots_up
from upshot.core.triggers import Proactive, Trigger
from upshot.core.windows import Window, decode_window, encode_window
from upshot.storage import windows
from upshot.storage.windows import StoredWindow

_key_decoder = msgspec.json.Decoder(Key)


@dataclass(slots=True)
class Stored:
    """Which windows of a timeline are in the database, and the hashes of their keys."""

    hashes: dict[Slot, UUID] = field(default_factory=dict)
    there: set[Slot] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What is to be written of a timeline's windows, as they were when it was taken."""

    new: list[StoredWindow] = field(default_factory=list)
    changed: list[StoredWindow] = field(default_factory=list)
    closed: list[tuple[int, int, UUID]] = field(default_factory=list)


async def load(
    conn: asyncpg.Connection, timeline: Timeline, slots: Iterable[Slot], stored: Stored
) -> None:
    """Put what is stored of these windows into the timeline. One query."""
    asked = []
    of_keys: dict[Key, UUID] = {}
    hashes = stored.hashes
    for slot in slots:
        if slot in hashes:
            continue
        key = slot[2]
        hashed = of_keys.get(key)
        if hashed is None:
            hashed = of_keys[key] = key_hash(key)
        hashes[slot] = hashed
        asked.append(slot)
    if not asked:
        return
    rows = await windows.load(
        conn,
        numbers=[slot[0] for slot in asked],
        nodes=[slot[1] for slot in asked],
        hashes=[hashes[slot] for slot in asked],
    )
    found = {asked[row["place"] - 1]: _read(row["state"]) for row in rows}
    deadlines = {asked[row["place"] - 1]: row["deadline_at"] for row in rows}
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


def take(timeline: Timeline, stored: Stored, *, retention: timedelta) -> Unsaved:
    """What is left open or remembered is written, what is neither and was stored is removed."""
    unsaved = Unsaved()
    there = stored.there
    for slot, touched_at in timeline.changed.items():
        window = timeline.windows.get(slot)
        trigger = timeline.index.of_number(slot[0])
        if window is None or trigger is None:
            if slot in there:
                there.remove(slot)
                unsaved.closed.append((slot[0], slot[1], stored.hashes[slot]))
        elif not isinstance(window, Unreadable):
            hashed = stored.hashes.get(slot) or key_hash(slot[2])
            row = _row(trigger, slot, hashed, window, touched_at=touched_at, retention=retention)
            if slot in there:
                unsaved.changed.append(row)
            else:
                there.add(slot)
                unsaved.new.append(row)
    timeline.changed = {}
    return unsaved


async def save(conn: asyncpg.Connection, unsaved: Unsaved) -> None:
    if unsaved.new:
        await windows.create(conn, unsaved.new)
    if unsaved.changed:
        await windows.save(conn, unsaved.changed)
    if unsaved.closed:
        await windows.close(
            conn,
            numbers=[number for number, _, _ in unsaved.closed],
            nodes=[node for _, node, _ in unsaved.closed],
            hashes=[hashed for _, _, hashed in unsaved.closed],
        )


def _row(
    trigger: Trigger,
    slot: Slot,
    hashed: UUID,
    window: Window,
    *,
    touched_at: datetime,
    retention: timedelta,
) -> StoredWindow:
    number, node, key = slot
    condition = trigger.nodes[node].condition
    is_proactive = isinstance(condition, Proactive)
    started_at, ends_at = span_of(condition, window)
    due_at = deadline_of(condition, window) if is_proactive else None
    return StoredWindow(
        trigger_number=number,
        node=node,
        key_hash=hashed,
        key=msgspec.json.encode(key).decode(),
        state=encode_window(
            window,
            keeps_after=trigger.keeps_after,
            keeps_events=trigger.keeps_events,
            keeps_opener=is_proactive,
        ),
        started_at=started_at,
        deadline_at=due_at or ends_at,
        alarms=due_at is not None,
        forgotten_at=forgotten_at(condition, window, touched_at=touched_at, retention=retention),
    )


def _read(state: str) -> Window | Unreadable:
    try:
        return decode_window(state)
    except ValueError as error:
        return Unreadable(f"The stored window cannot be read: {error}")
