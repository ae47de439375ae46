"""Explain: read the log from where a trigger's keys began, and tell what an event did to them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg

from upshot.core.checks import checks_of
from upshot.core.errors import NotFound
from upshot.core.events import RESOURCE_ID, Event
from upshot.core.explanation import Explanation, explain
from upshot.core.history import Arrival, History, Moment
from upshot.core.index import TriggerIndex
from upshot.core.keys import Key, LabelPart
from upshot.core.limits import (
    EXPLAIN_EVENTS_FEWER,
    EXPLAIN_EVENTS_FEWEST,
    EXPLAIN_EVENTS_MAX,
    EXPLAIN_FEWER_WITHIN,
    EXPLAIN_PAGE_EVENTS,
    EXPLAIN_SLICE,
    EXPLAIN_WITHIN,
    HELD_FOR_MAX,
    ROWS_SHOWN_WITH_ONE_MAX,
    WRITE_DELAY_MAX,
)
from upshot.core.phrases import Clock
from upshot.core.runs import Firing
from upshot.core.sentences.outcomes import Outcome
from upshot.core.timeline import Timeline
from upshot.core.triggers import Trigger
from upshot.pipeline.chains import Chains
from upshot.pipeline.past import BEGINNING, Past, read_past
from upshot.storage import events, replay, runs, trigger_history, triggers
from upshot.storage.database import Database
from upshot.storage.events import EvaluationError, Place
from upshot.storage.log import READER_SETTINGS, event_of
from upshot.storage.trigger_history import Standing
from upshot.storage.triggers import DELETED, KEY_FORGOTTEN, SAVED

_INSTANT: Final = timedelta(microseconds=1)
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
_LAST_XID: Final = 2**62
_CHANGES: Final = (SAVED, DELETED, KEY_FORGOTTEN)
ATTEMPTS: Final = (
    (EXPLAIN_EVENTS_MAX, EXPLAIN_WITHIN),
    (EXPLAIN_EVENTS_FEWER, EXPLAIN_FEWER_WITHIN),
    (EXPLAIN_EVENTS_FEWEST, timedelta(days=1)),
)
"""How many events before it are looked at, and how long that may take, before fewer have to do."""
_TOLD_LATE: Final = "Late:"
"""How the evaluator tells of news that came after an alarm, in the same place as of errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What an event did to a trigger, at the version that was in force for it.

    `note` None: all that led to it was read. Otherwise it says what is not known.
    """

    trigger: Trigger
    enabled: bool
    explanation: Explanation
    note: str | None = None
    run_ids: tuple[UUID, ...] = ()


async def explain_event(
    database: Database, *, name: str, event_id: UUID, key_retention: timedelta
) -> Explained:
    """Recompute what an event did to a trigger, from the log.

    Raises:
        NotFound: there is no such trigger, or no such event.
    """
    async with database.begin() as conn:
        stored = await triggers.load(conn, name)
        if stored is None:
            raise NotFound(f"There is no trigger {name!r}.")
        event = (await events.load(conn, [event_id])).get(event_id)
        if event is None:
            raise _unknown(event_id)
        errors = await events.errors_of(conn, event_id, limit=ROWS_SHOWN_WITH_ONE_MAX)
        caused = await runs.caused_by(conn, event_id, limit=ROWS_SHOWN_WITH_ONE_MAX)
    reader = await database.connect(**READER_SETTINGS)
    try:
        standing = await trigger_history.standing_of(reader, event_id)
        if standing is None:
            raise _unknown(event_id)
        clock = Clock.of(event.at)
        until = event.received_at + HELD_FOR_MAX if event.follows else None
        past = await read_past(reader, stored, place=standing.place, held_until=until, clock=clock)
        explained = await _Looking(reader, event, standing, past, key_retention).explained()
    finally:
        await reader.close()
    run_ids = {run.id for run in caused if run.trigger_id == stored.id}
    async with database.begin() as conn:
        for run_id in explained.run_ids:
            if run_id not in run_ids and await runs.load(conn, run_id) is not None:
                run_ids.add(run_id)
    names = {stored.name, explained.trigger.name}
    return replace(
        explained,
        explanation=_with_error(explained.explanation, errors, names),
        run_ids=tuple(sorted(run_ids)),
    )


def _unknown(event_id: UUID) -> NotFound:
    return NotFound(f"There is no event {event_id}; it may be past its retention.")


def _with_error(
    explanation: Explanation, errors: Iterable[EvaluationError], names: Collection[str]
) -> Explanation:
    """What the evaluator could not do weighs more than what should have been."""
    for one in errors:
        if (one.trigger is None or one.trigger in names) and not one.error.startswith(_TOLD_LATE):
            return replace(
                explanation,
                outcome=Outcome.SET_ASIDE,
                sentence=f"Set aside: it could not be evaluated: {one.error}",
                after=explanation.before,
                children=(),
            )
    return explanation


class _Looking:
    """Looks for what led to an event, as far back as it takes, or as it may."""

    def __init__(
        self,
        conn: asyncpg.Connection,
        event: Event,
        standing: Standing,
        past: Past,
        key_retention: timedelta,
    ) -> None:
        self._conn = conn
        self._event = event
        self._standing = standing
        self._past = past
        self._key_retention = key_retention
        self._clock = Clock.of(event.at)

    async def explained(self) -> Explained:
        """`run_ids` are those of the runs that it should have made."""
        past, event = self._past, self._event
        if event.name in _CHANGES:
            return self._untold(
                Outcome.NOT_SEEN, "Not seen: it is a change of a trigger, which no trigger sees."
            )
        if past.unseen is not None:
            return self._untold(Outcome.NOT_SEEN, f"Not seen: {past.unseen}.")
        keys, error = _keys_of(past.triggers, event)
        if keys is not None and not keys:
            return self._told(Moment(trigger=past.trigger, now=event.received_at, error=error))
        if not self._standing.is_evaluated:
            return self._untold(Outcome.WAITING, self._behind())
        if self._standing.held_until is not None:
            return self._untold(
                Outcome.HELD,
                f"Held: it follows the event {event.follows}, which is not evaluated yet; it waits "
                f"for it until {self._clock.time(self._standing.held_until)} at the latest.",
            )
        moment, note = await self._moment(keys)
        if moment.trigger is None:
            return self._untold(
                Outcome.NOT_SEEN,
                "Not seen: it waited for another event, and the trigger was disabled meanwhile.",
            )
        return self._told(moment, note)

    def _behind(self) -> str:
        until = self._standing.evaluated_until
        if until is None or until.timestamp() <= 0:
            return "Waiting: it is not evaluated yet; no evaluator has begun."
        return (
            "Waiting: it is not evaluated yet; the evaluator has come as far as "
            f"{self._clock.time(until)}."
        )

    def _untold(self, outcome: Outcome, sentence: str) -> Explained:
        trigger = self._past.trigger
        checks = tuple(checks_of(trigger, self._event))
        return Explained(
            trigger=trigger,
            enabled=self._past.enabled,
            explanation=Explanation(outcome=outcome, sentence=sentence, checks=checks),
        )

    def _told(self, moment: Moment, note: str | None = None) -> Explained:
        trigger = moment.trigger
        assert trigger is not None
        run_ids = tuple(
            Firing(trigger, step.key, step.fire, moment.now, (self._event.id.hex,)).id_of(
                str(place)
            )
            for step in moment.steps
            if step.node.parent is None and step.fire is not None
            for place, _ in trigger.runs
        )
        checks = checks_of(trigger, self._event)
        return Explained(
            trigger=trigger,
            enabled=self._past.enabled,
            explanation=explain(trigger, self._event, moment, checks),
            note=note,
            run_ids=run_ids,
        )

    async def _moment(self, keys: Collection[Key] | None) -> tuple[Moment, str | None]:
        """The event's turn, and what is not known of what came before."""
        resource_id = _resource_id_of(self._past.triggers, keys)
        for count, within in ATTEMPTS:
            floor = await trigger_history.floor_of(
                self._conn, before=self._standing.place, count=count, resource_id=resource_id
            )
            begins_at, note = self._past.begins_at, self._past.note
            if floor is not None and floor > begins_at:
                begins_at = floor
                note = (
                    f"Only the last {count:,} events before it were looked at; what opened the key "
                    "before them is not known."
                )
            moment = await self._played(
                keys, resource_id, begins_at, ends_at=monotonic() + within.total_seconds()
            )
            if moment is not None:
                return moment, note
        raise AssertionError("The last attempt has all the time it takes.")

    async def _played(
        self,
        keys: Collection[Key] | None,
        resource_id: str | None,
        begins_at: Place,
        *,
        ends_at: float,
    ) -> Moment | None:
        """None: it took too long."""
        history = History(self._event, keys=keys, retention=self._key_retention)
        chains = Chains(are_brought=resource_id is None)
        changes = deque(self._past.changes)
        pause_at = monotonic() + EXPLAIN_SLICE.total_seconds()
        async for rows in self._pages(begins_at, resource_id):
            await chains.look_up(self._conn, rows, history)
            followed = {row["follows"] for row in rows}
            for row in rows:
                place = (row["xid"], row["position"])
                while changes and changes[0][0] < place:
                    history.change(changes.popleft()[1])
                chains.arrive_before(place, history)
                if _is_needed(row, followed, history):
                    history.arrive(_arrival(row), is_known=row["follows"] in chains.known)
                if history.moment is not None:
                    return history.moment
                now = monotonic()
                if now > ends_at:
                    return None
                if now > pause_at:
                    await asyncio.sleep(0)
                    pause_at = monotonic() + EXPLAIN_SLICE.total_seconds()
        until = self._event.received_at + HELD_FOR_MAX + _INSTANT
        for _, change in changes:
            if change.at < until and history.moment is None:
                history.change(change)
        history.finish(until)
        assert history.moment is not None
        return history.moment

    async def _pages(
        self, begins_at: Place, resource_id: str | None
    ) -> AsyncIterator[Sequence[asyncpg.Record]]:
        """The log from a place on, up to the event, or as far as it may have had to wait."""
        event = self._event
        names = replay.names_wanted(self._past.triggers)
        until = event.received_at + WRITE_DELAY_MAX + (HELD_FOR_MAX if event.follows else _INSTANT)
        since = _LONG_AGO
        if begins_at != BEGINNING:
            received_at = await trigger_history.received_at(self._conn, begins_at)
            since = received_at - WRITE_DELAY_MAX if received_at is not None else since
        span = replay.Span(since=since, until=until, xid_from=begins_at[0], xid_until=_LAST_XID)
        after: Place | None = begins_at
        while after is not None:
            if resource_id is None:
                stretch = await replay.read(
                    self._conn, span, after=after, limit=EXPLAIN_PAGE_EVENTS, names=names
                )
            else:
                stretch = await replay.read_of_resources(
                    self._conn,
                    [resource_id],
                    since=since,
                    until=until,
                    after=after,
                    limit=EXPLAIN_PAGE_EVENTS,
                    names=names,
                )
            yield stretch.rows
            after = stretch.after


def _keys_of(
    versions: Iterable[Trigger], event: Event
) -> tuple[Collection[Key] | None, str | None]:
    """The keys that an event concerns, or why that cannot be told. None: all keys together."""
    keys: set[Key] = set()
    error = None
    for trigger in versions:
        timeline = Timeline(TriggerIndex([trigger]))
        concerns = timeline.concerns(event)
        error = next((aside.reason for aside in timeline.set_aside), error)
        if concerns and len(trigger.nodes) > 1 and not trigger.condition.for_each:
            return None, error
        keys.update(concern.key for concern in concerns)
    return keys, error


def _resource_id_of(versions: Iterable[Trigger], keys: Collection[Key] | None) -> str | None:
    """The one resource whose events can concern these keys, if there is only one."""
    found: set[str | None] = set()
    for trigger in versions:
        for _, condition in trigger.leaves:
            literal = condition.selection.match.literal_resource_ids
            parts = condition.for_each
            part = LabelPart(RESOURCE_ID)
            if literal is not None:
                found.update(literal)
            elif keys is not None and part in parts:
                place = parts.index(part)
                found.update(key[place] if place < len(key) else None for key in keys)
            else:
                return None
    return found.pop() if len(found) == 1 else None


def _is_needed(row: asyncpg.Record, followed: Collection[UUID | None], history: History) -> bool:
    return (
        row["wanted"]
        or row["follows"] is not None
        or row["id"] in followed
        or history.is_awaited(row["id"])
    )


def _arrival(row: asyncpg.Record) -> Arrival:
    is_evaluated = row["wanted"] and row["name"] not in _CHANGES
    return Arrival(
        id=row["id"],
        follows=row["follows"],
        received_at=row["received_at"],
        event=event_of(row) if is_evaluated else None,
    )
