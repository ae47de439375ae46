"""A trigger's past as the log's entries tell it: which version held where, and since when."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import asyncpg

from upshot.core.errors import UpshotError
from upshot.core.history import Change, KeyForgotten, Saved
from upshot.core.language import compile_trigger
from upshot.core.limits import EXPLAIN_CHANGES_MAX
from upshot.core.phrases import Clock
from upshot.core.triggers import Trigger
from upshot.storage import replay, trigger_history
from upshot.storage.events import Place
from upshot.storage.trigger_history import Entry
from upshot.storage.triggers import SAVED, StoredTrigger

BEGINNING: Final[Place] = (0, 0)
"""Before the log's first event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What holds at a place of the log, and the changes from where the trigger's keys began."""

    trigger: Trigger
    enabled: bool
    unseen: str | None
    """Why the trigger saw nothing at that place; None: it did."""
    begins_at: Place
    changes: Sequence[tuple[Place, Change]]
    """Also those behind the place, as long as the event may have waited there."""
    note: str | None
    """What is not known of it; None: the keys' beginning is in the log."""

    @property
    def triggers(self) -> list[Trigger]:
        """Every version that the changes tell of."""
        return [
            change.trigger
            for _, change in self.changes
            if isinstance(change, Saved) and change.trigger is not None
        ]


async def read_past(
    conn: asyncpg.Connection,
    stored: StoredTrigger,
    *,
    place: Place,
    held_until: datetime | None,
    clock: Clock,
) -> Past:
    """The past of a trigger, seen from an event's place in the log.

    `held_until`: how long the event may have waited there for another.
    """
    entries = await trigger_history.entries_of(conn, stored.id, limit=EXPLAIN_CHANGES_MAX)
    known = list(_in_order(entries))
    written = [one for one in known if _is_before(one.entry, place, held_until)]
    before = [one for one in written if one.entry.place < place]
    begin = next((one for one in reversed(before) if one.forgets), None)
    if begin is not None:
        changes = [_change(stored, one) for one in written[written.index(begin) :]]
        return _past(stored, changes, place=place, begins_at=begin.entry.place, clock=clock)
    made = next((one for one in known if one.payload["version"] == 1), None)
    if made is not None:
        past = _past(stored, [_change(stored, made)], place=made.entry.place, clock=clock)
        at = clock.time(made.entry.received_at)
        return replace(past, unseen=f"the trigger was made at {at}, after the event was received")
    begins = await replay.first_received_at(conn)
    note = _note(entries, begins, clock)
    if not before:
        # The version of then is no longer in the log: the next one known has to stand for it.
        saved = next((one for one in known if one.entry.name == SAVED), None)
        change = _stand_in(stored, saved, at=begins or stored.created_at)
        if saved is not None:
            note += (
                " The trigger as it was then is not in the log either; it is explained by version "
                f"{saved.payload['version']}."
            )
        changes = [(BEGINNING, change), *(_change(stored, one) for one in written)]
    else:
        changes = [_change(stored, one) for one in written]
    return _past(stored, changes, place=place, begins_at=BEGINNING, clock=clock, note=note)


def _is_before(entry: Entry, place: Place, held_until: datetime | None) -> bool:
    return entry.place < place or (held_until is not None and entry.received_at <= held_until)


@dataclass(frozen=True, slots=True)
class _Written:
    entry: Entry
    payload: Mapping[str, Any]

    @property
    def forgets(self) -> bool:
        return self.entry.name == SAVED and self.payload["keys"] == "forget"


def _in_order(entries: Sequence[Entry]) -> Iterator[_Written]:
    """Without those that a later version had overtaken before they were read."""
    version = 0
    for entry in entries:
        payload = json.loads(entry.payload)
        if entry.name == SAVED:
            if payload["version"] <= version:
                continue
            version = payload["version"]
        yield _Written(entry, payload)


def _past(
    stored: StoredTrigger,
    changes: Sequence[tuple[Place, Change]],
    *,
    place: Place,
    clock: Clock,
    begins_at: Place = BEGINNING,
    note: str | None = None,
) -> Past:
    """At least one of the changes, at or before the place, is a version."""
    in_force = None
    disabled_at = None
    for at, change in changes:
        if isinstance(change, Saved) and at <= place:
            in_force = change
            disabled_at = None if change.enabled else disabled_at or change.at
    assert in_force is not None
    unseen = None
    if in_force.trigger is None:
        unseen = "the trigger as it was then cannot be read"
    elif not in_force.enabled:
        unseen = "the trigger was disabled then"
        if note is None:
            assert disabled_at is not None
            unseen = f"the trigger was disabled, since {clock.time(disabled_at)}"
    return Past(
        trigger=in_force.trigger or _compiled(stored, stored.document, stored.version),
        enabled=in_force.enabled,
        unseen=unseen,
        begins_at=begins_at,
        changes=changes,
        note=note,
    )


def _change(stored: StoredTrigger, written: _Written) -> tuple[Place, Change]:
    entry, payload = written.entry, written.payload
    if entry.name != SAVED:
        return entry.place, KeyForgotten(at=entry.received_at, key=tuple(payload["key"]))
    document = payload["document"]
    trigger: Trigger | None
    try:
        trigger = _compiled(stored, document, payload["version"])
    except (ValueError, UpshotError):
        trigger = None
    saved = Saved(
        at=entry.received_at,
        trigger=trigger,
        enabled=document["enabled"],
        forgets=written.forgets,
    )
    return entry.place, saved


def _stand_in(stored: StoredTrigger, written: _Written | None, *, at: datetime) -> Saved:
    """The oldest version that is known; nothing is in the log of when it came to be."""
    if written is None:
        document, version = stored.document, stored.version
    else:
        document, version = written.payload["document"], written.payload["version"]
    return Saved(
        at=at,
        trigger=_compiled(stored, document, version),
        enabled=document["enabled"],
        forgets=False,
    )


def _compiled(stored: StoredTrigger, document: Mapping[str, Any], version: int) -> Trigger:
    return compile_trigger(
        {"name": stored.name, **document},
        trigger_id=stored.id,
        number=stored.number,
        version=version,
    )


def _note(entries: Sequence[Entry], begins: datetime | None, clock: Clock) -> str:
    if len(entries) == EXPLAIN_CHANGES_MAX:
        return (
            f"Only the last {EXPLAIN_CHANGES_MAX} changes of the trigger are looked at; what "
            "opened the key before them is not known."
        )
    at = f" at {clock.time(begins)}" if begins is not None else ""
    return f"The log begins{at}; what opened the key before that is not known."
