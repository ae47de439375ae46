"""Evaluate: read the log, advance the keys it concerns, save windows, runs and cursor as one."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby, takewhile
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import structlog
from msgspec import Struct

from upshot.core.errors import UpshotError
from upshot.core.events import Event
from upshot.core.following import Following, Turn
from upshot.core.index import TriggerIndex
from upshot.core.keys import key_hash
from upshot.core.language import compile_trigger
from upshot.core.limits import (
    BATCH_BYTES_MAX,
    BATCH_EVENTS_MAX,
    DECISION_GRACE,
    DOWNTIME_MIN,
    DUE_MAX,
    PART_EVENTS_MAX,
)
from upshot.core.runs import Firing
from upshot.core.timeline import CameLate, Concern, SetAside, Slot, Timeline, Told
from upshot.core.triggers import Proactive, Trigger
from upshot.pipeline import keys
from upshot.pipeline.acting import act
from upshot.pipeline.behind import Behind
from upshot.pipeline.firing import filled, needed_by
from upshot.storage import evaluation_errors, held_events, in_force, windows
from upshot.storage import log as event_log
from upshot.storage.database import REFUSED, reason_of
from upshot.storage.triggers import DELETED, KEY_FORGOTTEN, SAVED

IDLE_SAVE = timedelta(seconds=5)
_INSTANT = timedelta(microseconds=1)
_STRETCH = 50
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

_Item = TypeVar("_Item")

log = structlog.get_logger()


class CursorMoved(UpshotError):
    """Somebody else evaluates: this evaluator's work is void, and nothing of it was saved."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one turn did. `is_behind`: there is more to do at once."""

    events: int = 0
    runs: int = 0
    late: int = 0
    set_aside: int = 0
    is_behind: bool = False


@dataclass(slots=True)
class _Counts:
    runs: int = 0
    late: int = 0
    set_aside: int = 0
    told: int = 0
    """Entries that firings have given to the log."""


class Evaluator:
    """One evaluator at a time: the cursor's version tells a second one that it is not it.

    After an exception, `load` a new one: what is held in memory follows the database.
    """

    def __init__(
        self,
        conn: asyncpg.Connection,
        *,
        cursor: event_log.Cursor,
        index: TriggerIndex,
        since: dict[int, datetime],
        following: Following,
        was_down: bool,
        key_retention: timedelta,
    ) -> None:
        self._conn = conn
        self._cursor = cursor
        self._index = index
        self._since = since
        self._following = following
        self._was_down = was_down
        self._key_retention = key_retention
        self._part_max = PART_EVENTS_MAX
        self._this_turn: set[UUID] = set()
        """The events evaluated in this turn, which the cursor has not passed yet."""

    @classmethod
    async def load(
        cls,
        conn: asyncpg.Connection,
        *,
        key_retention: timedelta,
        downtime_min: timedelta = DOWNTIME_MIN,
    ) -> "Evaluator":
        """Take up where the cursor stands, with the triggers in force there."""
        cursor = await event_log.load_cursor(conn, event_log.EVALUATE)
        index = TriggerIndex()
        since = {}
        for row in await in_force.load(conn):
            document = json.loads(row["document"])
            since[row["number"]] = row["since"]
            if not document["enabled"]:
                continue
            try:
                index.put(
                    compile_trigger(
                        document, trigger_id=row["id"], number=row["number"], version=row["version"]
                    )
                )
            except (ValueError, UpshotError) as error:
                log.error("trigger_unreadable", trigger=document.get("name"), error=str(error))
        now = await conn.fetchval("SELECT now()")
        return cls(
            conn,
            cursor=cursor,
            index=index,
            since=since,
            following=Following(await held_events.load(conn)),
            was_down=now - cursor.evaluated_until > downtime_min,
            key_retention=key_retention,
        )

    async def turn(
        self,
        *,
        events_max: int = BATCH_EVENTS_MAX,
        bytes_max: int = BATCH_BYTES_MAX,
        due_max: int = DUE_MAX,
        part_max: int = PART_EVENTS_MAX,
        decide_until: datetime | None = None,
        carefully: bool = False,
    ) -> Progress:
        """Evaluate the next batch of the log, then what is due, in one transaction.

        `part_max`: so many events are evaluated before what came of them is written.
        `carefully`: an event whose results the database refuses is found and set aside.
        `decide_until`: no deadline after it is decided unless an event shows that it has passed.

        Raises:
            CursorMoved: another evaluator has taken over.
        """
        self._this_turn.clear()
        self._part_max = part_max
        async with self._conn.transaction():
            batch = await event_log.read_batch(
                self._conn,
                self._cursor,
                events_max=events_max,
                bytes_max=bytes_max,
                # Who is followed may have any name.
                names=None if len(self._following) else self._index.names,
                is_wanted=self._index.is_of_interest,
                is_followed=self._following.is_followed,
            )
            idle_for = batch.after.evaluated_until - self._cursor.evaluated_until
            was_behind = self._cursor.page is not None
            counts = _Counts()
            for is_change, stretch in groupby(batch.events, key=_is_change):
                if is_change:
                    for entry in stretch:
                        await self._change(entry, counts, carefully=carefully)
                else:
                    turns = await self._turns_of(list(stretch))
                    await self._work(self._evaluate, turns, counts, carefully=carefully)
            is_cut = batch.after.page is not None
            until = batch.after.evaluated_until - DECISION_GRACE
            if decide_until is not None:
                until = min(until, decide_until)
            due = 0
            if not (self._was_down and is_cut):
                due = await self._decide(until, counts, due_max=due_max, carefully=carefully)
            if not batch.size and not due and not was_behind and idle_for < IDLE_SAVE:
                return Progress()
            if not await event_log.save_cursor(self._conn, event_log.EVALUATE, batch.after):
                raise CursorMoved("Another evaluator has moved the cursor.")
        self._cursor = batch.after
        more_due = due >= due_max
        if not is_cut and not more_due:
            self._was_down = False
        return Progress(
            events=batch.size,
            runs=counts.runs,
            late=counts.late,
            set_aside=counts.set_aside,
            is_behind=was_behind or is_cut or more_due or counts.told > 0,
        )

    @property
    def position(self) -> int:
        return self._cursor.position

    async def _change(self, entry: Event, counts: _Counts, *, carefully: bool) -> None:
        """A change holds from its entry's place in the log on; what was due before comes first."""
        at = entry.received_at
        await self._overdue(at, counts, carefully=carefully)
        number = json.loads(entry.payload)["number"]
        await self._decide_all_of(number, at, counts, carefully=carefully)
        await self._work(self._apply, [_Due(entry, at)], counts, carefully=carefully)

    async def _apply(self, entries: Sequence["_Due"], counts: _Counts) -> None:
        for due in entries:
            entry = due.event
            change = json.loads(entry.payload)
            trigger_id, number = UUID(change["id"]), change["number"]
            if entry.name == KEY_FORGOTTEN:
                await self._forget_key(number, tuple(change["key"]), entry.received_at)
            elif entry.name == DELETED:
                self._index.remove(trigger_id)
                self._since.pop(number, None)
                await in_force.remove(self._conn, trigger_id)
                await windows.close_all_of(self._conn, number)
            else:
                await self._save_trigger(entry, change, counts)

    async def _save_trigger(self, entry: Event, change: dict[str, Any], counts: _Counts) -> None:
        trigger_id, number = UUID(change["id"]), change["number"]
        document, version = change["document"], change["version"]
        # Two that make the same trigger at once may commit in one order and be read in the other.
        since = await in_force.put_if_newer(
            self._conn,
            trigger_id=trigger_id,
            number=number,
            version=version,
            document=document,
            at=entry.received_at,
        )
        if since is None:
            return
        self._since[number] = since
        if change["keys"] == "forget":
            await windows.close_all_of(self._conn, number)
        self._index.remove(trigger_id)
        try:
            trigger = compile_trigger(
                document, trigger_id=trigger_id, number=number, version=version
            )
        except (ValueError, UpshotError) as error:
            await self._set_aside([SetAside(entry, None, str(error))], counts)
            return
        if not document["enabled"]:
            await windows.close_nodes_of(self._conn, number, _proactive_nodes(trigger))
            return
        self._index.put(trigger)
        if change["keys"] == "keep" and change["condition_changed"]:
            await windows.look_again(self._conn, number, at=entry.received_at)
        await self._begin(trigger, entry.received_at)

    async def _forget_key(self, number: int, key: tuple[str, ...], at: datetime) -> None:
        await windows.close_key(self._conn, number, key_hash(key))
        trigger = self._index.of_number(number)
        if trigger is not None and not key:
            await self._begin(trigger, at)

    async def _begin(self, trigger: Trigger, at: datetime) -> None:
        """Its switches that need no event count from here, unless they are kept."""
        slots: list[Slot] = [
            (trigger.number, node.number, ())
            for node, condition in trigger.leaves
            if isinstance(condition, Proactive) and condition.begins_by_itself
        ]
        if slots:
            timeline, stored = Timeline(self._index), keys.Stored()
            await keys.load(self._conn, timeline, slots, stored)
            timeline.begin(trigger, at)
            await keys.save(self._conn, self._unsaved(timeline, stored))

    async def _turns_of(self, events: Sequence[Event]) -> list["_Due"]:
        """The order in which these events are evaluated, with those held that their turn brings."""
        follow = [event for event in events if event.follows is not None]
        if not follow and not len(self._following):
            self._this_turn.update(event.id for event in events)
            return [_Due(event, event.received_at) for event in events]
        known: set[UUID] = set()
        if follow:
            known = await event_log.evaluated_before(
                self._conn, self._cursor, {event.follows for event in follow if event.follows}
            )
        turns: list[Turn] = []
        for event in events:
            follows = event.follows
            arrived = list(
                self._following.arrive(
                    event.id,
                    follows=follows,
                    received_at=event.received_at,
                    is_known=follows in self._this_turn
                    or (follows in known and follows not in self._following),
                )
            )
            self._this_turn.update(turn.id for turn in arrived)
            turns += arrived
        return await self._due_events(turns, {event.id: event for event in events})

    async def _due_events(self, turns: Sequence[Turn], here: dict[UUID, Event]) -> list["_Due"]:
        """The events of these turns, those held before read again; what is held now is saved."""
        await held_events.save(self._conn, self._following.newly_held())
        released = [turn.id for turn in turns if turn.id not in here]
        if released:
            here = {**here, **await event_log.load(self._conn, released)}
        await held_events.release(self._conn, self._following.newly_released())
        return [_Due(here[turn.id], turn.now) for turn in turns if turn.id in here]

    async def _overdue(self, before: datetime, counts: _Counts, *, carefully: bool) -> None:
        """Evaluate the events that have waited for another as long as they may."""
        turns = list(self._following.overdue(before=before))
        if turns:
            self._this_turn.update(turn.id for turn in turns)
            due = await self._due_events(turns, {})
            await self._work(self._evaluate, due, counts, carefully=carefully)

    async def _decide_all_of(
        self, number: int, before: datetime, counts: _Counts, *, carefully: bool
    ) -> None:
        """Decide all that is due of one trigger, which is about to change."""
        while rows := await windows.due_of(
            self._conn, number, before=before - _INSTANT, limit=DUE_MAX
        ):
            decide = self._decider(rows, before - _INSTANT, limit=DUE_MAX)
            await self._work(decide, rows, counts, carefully=carefully)

    async def _decide(
        self, until: datetime, counts: _Counts, *, due_max: int, carefully: bool
    ) -> int:
        """Decide deadlines up to `until`, the earliest first; answers how many windows."""
        await self._overdue(until + _INSTANT, counts, carefully=carefully)
        rows = await windows.due(self._conn, before=until, limit=due_max)
        if rows:
            decide = self._decider(rows, until, limit=due_max)
            await self._work(decide, rows, counts, carefully=carefully)
        return len(rows)

    def _decider(
        self, due: Sequence[asyncpg.Record], until: datetime, *, limit: int
    ) -> Callable[[Sequence[asyncpg.Record], _Counts], Awaitable[None]]:
        last = due[-1] if len(due) < limit else None

        async def decide(rows: Sequence[asyncpg.Record], counts: _Counts) -> None:
            timeline, stored = Timeline(self._index), keys.Stored()
            lost = await keys.load_due(self._conn, timeline, rows, stored)
            if self._was_down:
                timeline.catch_up(until)
            else:
                # What these have to decide later may come after what is not looked at here.
                timeline.pass_time(until if rows[-1] is last else rows[-1]["deadline_at"])
            await self._save_decided(timeline, stored, lost, at=until)
            await self._conclude(timeline.told(), counts)

        return decide

    async def _save_decided(
        self, timeline: Timeline, stored: keys.Stored, lost: Sequence[Slot], *, at: datetime
    ) -> None:
        """Save what was loaded because it was due, with those that nobody can decide."""
        for slot in stored.there.difference(lost):
            # Not due after all: its deadline was moved. It is written down as it is now.
            timeline.changed.setdefault(slot, at)
        await keys.save(self._conn, self._unsaved(timeline, stored))
        if lost:
            await windows.calm(
                self._conn,
                numbers=[slot[0] for slot in lost],
                nodes=[slot[1] for slot in lost],
                hashes=[stored.hashes[slot] for slot in lost],
            )

    async def _work(
        self,
        work: Callable[[Sequence[_Item], _Counts], Awaitable[None]],
        items: Sequence[_Item],
        counts: _Counts,
        *,
        carefully: bool,
    ) -> None:
        if carefully:
            await self._carefully(work, items, counts)
        else:
            await work(items, counts)

    async def _carefully(
        self,
        work: Callable[[Sequence[_Item], _Counts], Awaitable[None]],
        items: Sequence[_Item],
        counts: _Counts,
    ) -> None:
        """Halve what the database refuses until the one event or deadline at fault stands alone."""
        before = replace(counts)
        try:
            async with self._conn.transaction():
                await work(items, counts)
        except REFUSED as error:
            counts.runs, counts.late = before.runs, before.late
            counts.set_aside, counts.told = before.set_aside, before.told
            if len(items) == 1:
                await self._give_up(items[0], reason_of(error), counts)
                return
            middle = len(items) // 2
            await self._carefully(work, items[:middle], counts)
            await self._carefully(work, items[middle:], counts)

    async def _give_up(self, item: object, reason: str, counts: _Counts) -> None:
        if isinstance(item, _Due):
            await self._set_aside([SetAside(item.event, None, reason)], counts)
            return
        assert isinstance(item, asyncpg.Record)
        counts.set_aside += 1
        log.error("deadline_refused", trigger=item["trigger_number"], key=item["key"], error=reason)
        await windows.calm(
            self._conn,
            numbers=[item["trigger_number"]],
            nodes=[item["node"]],
            hashes=[item["key_hash"]],
        )

    async def _evaluate(self, due: Sequence["_Due"], counts: _Counts) -> None:
        """One part after the other, each written while the next is evaluated."""
        timeline, stored = Timeline(self._index), keys.Stored()
        together, apart = self._concerned(timeline, due)
        await self._load(timeline, together, stored)
        async with Behind() as behind:
            for start in range(0, len(together), self._part_max):
                await _take(timeline, together[start : start + self._part_max])
                unsaved, told = self._unsaved(timeline, stored), timeline.told()
                await behind.do(partial(self._write, unsaved, told, counts))
        # Where no part was left to tell of it.
        await self._set_aside(timeline.told().set_aside, counts)
        for number, some_concerned in apart.items():
            await self._evaluate_apart(number, some_concerned, counts)

    def _concerned(
        self, timeline: Timeline, due: Sequence["_Due"]
    ) -> tuple[list["_Concerned"], dict[int, list["_Concerned"]]]:
        """What concerns anybody; apart, by trigger, that which waits for alarms of any key."""
        together: list[_Concerned] = []
        apart: dict[int, list[_Concerned]] = {}
        for one in due:
            concerns = timeline.concerns(one.event)
            if one.now != one.event.received_at:
                concerns = [
                    concern
                    for concern in concerns
                    if self._since.get(concern.trigger.number, _LONG_AGO) <= one.event.received_at
                ]
            of_any_key = {
                concern.trigger.number
                for concern in concerns
                if concern.node.parent is not None and concern.awaits_any_key
            }
            for number in of_any_key:
                some = [concern for concern in concerns if concern.trigger.number == number]
                apart.setdefault(number, []).append(_Concerned(some, one.now))
            if of_any_key:
                concerns = [one for one in concerns if one.trigger.number not in of_any_key]
            if concerns:
                together.append(_Concerned(concerns, one.now))
        return together, apart

    async def _evaluate_apart(
        self, number: int, concerned: Sequence["_Concerned"], counts: _Counts
    ) -> None:
        """Likewise, of a composite that does not tell apart the keys of its children.

        Alarms of any of those may come between its events: so many of them are looked at that none
        is left out before the last event that is.
        """
        while concerned:
            until = concerned[-1].now
            rows = await windows.due_of(self._conn, number, before=until, limit=DUE_MAX)
            timeline, stored = Timeline(self._index), keys.Stored()
            lost = await keys.load_due(self._conn, timeline, rows, stored)
            here = concerned
            if len(rows) == DUE_MAX:
                until = rows[-1]["deadline_at"]
                here = list(takewhile(_not_after(until), concerned))
            await self._load(timeline, here, stored)
            await _take(timeline, here)
            if here is not concerned:
                timeline.pass_time(until)
            await self._save_decided(timeline, stored, lost, at=until)
            await self._conclude(timeline.told(), counts)
            concerned = concerned[len(here) :]

    async def _load(
        self, timeline: Timeline, concerned: Sequence["_Concerned"], stored: keys.Stored
    ) -> None:
        slots = [slot for one in concerned for some in one.concerns for slot in some.slots]
        await keys.load(self._conn, timeline, slots, stored)

    def _unsaved(self, timeline: Timeline, stored: keys.Stored) -> keys.Unsaved:
        return keys.take(timeline, stored, retention=self._key_retention)

    async def _write(self, unsaved: keys.Unsaved, told: Told, counts: _Counts) -> None:
        await keys.save(self._conn, unsaved)
        await self._conclude(told, counts)

    async def _conclude(self, told: Told, counts: _Counts) -> None:
        """Make the runs of what fired, and tell of what came late or was set aside."""
        if told.firings:
            acted = await act(self._conn, await self._with_events(told.firings))
            counts.runs += len(acted.runs)
            counts.told += acted.told
            await self._set_aside(acted.set_aside, counts)
        counts.late += len(told.late)
        if told.late:
            await evaluation_errors.record(self._conn, [_told(one) for one in told.late])
        await self._set_aside(told.set_aside, counts)

    async def _with_events(self, firings: Sequence[Firing]) -> list[Firing]:
        """Read again what was not kept with a key because the log has it."""
        missing = {
            seen.id for firing in firings for seen in needed_by(firing) if seen.event is None
        }
        if not missing:
            return list(firings)
        found = await event_log.load(self._conn, missing)
        return [filled(firing, found) for firing in firings]

    async def _set_aside(self, set_aside: Sequence[SetAside], counts: _Counts) -> None:
        counts.set_aside += len(set_aside)
        for one in set_aside:
            if one.event is None:
                log.error(
                    "deadline_set_aside",
                    trigger=one.trigger and one.trigger.name,
                    error=one.reason,
                )
        if set_aside:
            await evaluation_errors.record(self._conn, set_aside)


class _Due(Struct, frozen=True, gc=False):
    """An event whose turn it is, and the clock then: later than its receipt if it was held."""

    event: Event
    now: datetime


class _Concerned(Struct, frozen=True, gc=False):
    """What one event concerns, and the clock when it is evaluated."""

    concerns: Sequence[Concern]
    now: datetime


async def _take(timeline: Timeline, concerned: Sequence[_Concerned]) -> None:
    for start in range(0, len(concerned), _STRETCH):
        for one in concerned[start : start + _STRETCH]:
            timeline.take(one.concerns, now=one.now)
        # What is being written meanwhile goes on.
        await asyncio.sleep(0)


def _not_after(until: datetime) -> Callable[[_Concerned], bool]:
    return lambda one: one.now <= until


def _told(late: CameLate) -> SetAside:
    """In the same place as what could not be evaluated, so that it is seen with the event."""
    return SetAside(
        late.event,
        late.trigger,
        "Late: it came after the alarm that missed it, and changed nothing.",
    )


def _proactive_nodes(trigger: Trigger) -> list[int]:
    return [node.number for node in trigger.nodes if isinstance(node.condition, Proactive)]


def _is_change(event: Event) -> bool:
    return event.name in (SAVED, DELETED, KEY_FORGOTTEN)
