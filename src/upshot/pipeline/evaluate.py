"""Evaluate: read the log, advance the keys it concerns, save windows, runs and cursor as one."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from itertools import groupby
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog

from upshot.core.batch import (
    Advanced,
    Concerned,
    KeyFacts,
    SetAside,
    advance,
    concerned_by,
    in_log_order,
)
from upshot.core.errors import UpshotError
from upshot.core.evaluation import forgotten_at
from upshot.core.events import Event, event_json
from upshot.core.index import TriggerIndex
from upshot.core.keys import Key
from upshot.core.language import compile_trigger
from upshot.core.limits import BATCH_BYTES_MAX, BATCH_EVENTS_MAX
from upshot.core.parameter_schema import breach_of
from upshot.core.runs import Firing, trigger_document
from upshot.core.templates import (
    Parameters,
    compile_parameters,
    event_document,
    event_view,
    merged_source,
)
from upshot.core.windows import Seen, Window, decode_window, encode_window
from upshot.storage import evaluation_errors, in_force, queue, windows
from upshot.storage import log as event_log
from upshot.storage.database import REFUSED, reason_of

TRIGGER_SAVED = "upshot.trigger.saved"
TRIGGER_DELETED = "upshot.trigger.deleted"
IDLE_SAVE = timedelta(seconds=5)
_PARAMETERS_CACHED_MAX = 10_000

log = structlog.get_logger()


class CursorMoved(UpshotError):
    """Somebody else evaluates: this evaluator's work is void, and nothing of it was saved."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one turn did. `is_behind`: there is more to read at once."""

    events: int = 0
    runs: int = 0
    set_aside: int = 0
    is_behind: bool = False


@dataclass(slots=True)
class _Counts:
    runs: int = 0
    set_aside: int = 0


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a deployment gives to the runs of its triggers; JSON as text."""

    parameters: str
    parameter_schema: str | None


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
        key_retention: timedelta,
    ) -> None:
        self._conn = conn
        self._cursor = cursor
        self._index = index
        self._key_retention = key_retention

    @classmethod
    async def load(cls, conn: asyncpg.Connection, *, key_retention: timedelta) -> "Evaluator":
        """Take up where the cursor stands, with the triggers in force there."""
        cursor = await event_log.load_cursor(conn, event_log.EVALUATE)
        index = TriggerIndex()
        for row in await in_force.load(conn):
            document = json.loads(row["document"])
            try:
                index.put(
                    compile_trigger(
                        document, trigger_id=row["id"], number=row["number"], version=row["version"]
                    )
                )
            except ValueError as error:
                log.error("trigger_unreadable", trigger=document.get("name"), error=str(error))
        return cls(conn, cursor=cursor, index=index, key_retention=key_retention)

    async def turn(
        self,
        *,
        events_max: int = BATCH_EVENTS_MAX,
        bytes_max: int = BATCH_BYTES_MAX,
        carefully: bool = False,
    ) -> Progress:
        """Evaluate the next batch of the log in one transaction.

        `carefully`: an event whose results the database refuses is found and set aside.

        Raises:
            CursorMoved: another evaluator has taken over.
        """
        async with self._conn.transaction():
            batch = await event_log.read_batch(
                self._conn,
                self._cursor,
                events_max=events_max,
                bytes_max=bytes_max,
                is_wanted=self._index.is_of_interest,
            )
            idle_for = batch.after.evaluated_until - self._cursor.evaluated_until
            was_behind = self._cursor.page is not None
            if not batch.size and not was_behind and idle_for < IDLE_SAVE:
                return Progress()
            counts = _Counts()
            for is_change, stretch in groupby(batch.events, key=_is_change):
                work = self._apply if is_change else self._evaluate
                if carefully:
                    await self._carefully(work, list(stretch), counts)
                else:
                    await work(list(stretch), counts)
            if not await event_log.save_cursor(self._conn, event_log.EVALUATE, batch.after):
                raise CursorMoved("Another evaluator has moved the cursor.")
        self._cursor = batch.after
        return Progress(
            events=batch.size,
            runs=counts.runs,
            set_aside=counts.set_aside,
            is_behind=was_behind or batch.after.page is not None,
        )

    @property
    def position(self) -> int:
        return self._cursor.position

    async def _apply(self, entries: Sequence[Event], counts: _Counts) -> None:
        """A change of a trigger holds from its entry's place in the log on."""
        for entry in entries:
            await self._apply_one(entry, counts)

    async def _apply_one(self, entry: Event, counts: _Counts) -> None:
        change = json.loads(entry.payload)
        trigger_id, number = UUID(change["id"]), change["number"]
        if entry.name == TRIGGER_DELETED:
            self._index.remove(trigger_id)
            await in_force.remove(self._conn, trigger_id)
            await windows.close_all_of(self._conn, number)
            return
        document, version = change["document"], change["version"]
        # Two that make the same trigger at once may commit in one order and be read in the other.
        if not await in_force.put_if_newer(
            self._conn, trigger_id=trigger_id, number=number, version=version, document=document
        ):
            return
        if change["keys"] == "forget":
            await windows.close_all_of(self._conn, number)
        self._index.remove(trigger_id)
        if document["enabled"]:
            try:
                self._index.put(
                    compile_trigger(document, trigger_id=trigger_id, number=number, version=version)
                )
            except (ValueError, UpshotError) as error:
                await self._set_aside([SetAside(entry, None, str(error))], counts)

    async def _carefully(
        self,
        work: Callable[[Sequence[Event], _Counts], Awaitable[None]],
        events: Sequence[Event],
        counts: _Counts,
    ) -> None:
        """Halve what the database refuses until the one event at fault stands alone."""
        before = _Counts(counts.runs, counts.set_aside)
        try:
            async with self._conn.transaction():
                await work(events, counts)
        except REFUSED as error:
            counts.runs, counts.set_aside = before.runs, before.set_aside
            if len(events) == 1:
                await self._set_aside([SetAside(events[0], None, reason_of(error))], counts)
                return
            middle = len(events) // 2
            await self._carefully(work, events[:middle], counts)
            await self._carefully(work, events[middle:], counts)

    async def _evaluate(self, events: Sequence[Event], counts: _Counts) -> None:
        concerned = concerned_by(self._index, events)
        before = await self._load_windows(concerned)
        advanced = advance(concerned.keys.values(), before)
        await self._save_windows(advanced, before)
        firings = in_log_order(events, advanced.firings)
        if firings:
            await self._make_runs(firings)
        counts.runs += len(firings)
        await self._set_aside([*concerned.set_aside, *advanced.set_aside], counts)

    async def _load_windows(
        self, concerned: Concerned
    ) -> dict[tuple[UUID, Key], Callable[[], Window]]:
        asked = {(facts.trigger.number, facts.hash): name for name, facts in concerned.keys.items()}
        if not asked:
            return {}
        rows = await windows.load(
            self._conn, [number for number, _ in asked], [hashed for _, hashed in asked]
        )
        return {
            asked[row["trigger_number"], row["key_hash"]]: partial(decode_window, row["state"])
            for row in rows
        }

    async def _save_windows(
        self, advanced: Advanced, before: Mapping[tuple[UUID, Key], object]
    ) -> None:
        """Write the windows left open, remove those closed. One that came and went is neither."""
        saved, closed = [], []
        for facts, window in advanced.windows:
            if window is not None:
                saved.append(self._stored(facts, window))
            elif (facts.trigger.id, facts.key) in before:
                closed.append(facts)
        if saved:
            await windows.save(self._conn, saved)
        if closed:
            await windows.close(
                self._conn,
                [facts.trigger.number for facts in closed],
                [facts.hash for facts in closed],
            )

    def _stored(self, facts: KeyFacts, window: Window) -> windows.StoredWindow:
        trigger = facts.trigger
        return windows.StoredWindow(
            trigger_number=trigger.number,
            key_hash=facts.hash,
            key=msgspec.json.encode(facts.key).decode(),
            state=encode_window(
                window, keeps_after=trigger.keeps_after, keeps_events=trigger.keeps_events
            ),
            forgotten_at=forgotten_at(
                window,
                within=trigger.condition.within,
                touched_at=facts.facts[-1].event.received_at,
                retention=self._key_retention,
            ),
        )

    async def _make_runs(self, firings: Sequence[Firing]) -> None:
        names = sorted({firing.trigger.deployment for firing in firings})
        defaults = {
            row["name"]: _Defaults(row["parameters"], row["parameter_schema"])
            for row in await queue.defaults_of(self._conn, names)
        }
        now = await self._conn.fetchval("SELECT now()")
        runs = [run_of(firing, defaults.get(firing.trigger.deployment)) for firing in firings]
        await queue.create(self._conn, runs, now=now)

    async def _set_aside(self, set_aside: Sequence[SetAside], counts: _Counts) -> None:
        counts.set_aside += len(set_aside)
        if set_aside:
            await evaluation_errors.record(self._conn, set_aside)


def run_of(firing: Firing, defaults: _Defaults | None) -> queue.NewRun:
    """The run that a firing makes. What cannot be rendered makes one that has failed already."""
    trigger, fire = firing.trigger, firing.fire
    parameters = template = error = None
    if defaults is None:
        error = f"There is no deployment {trigger.deployment!r}."
    else:
        parameters, template, error = _rendered(firing, defaults)
    return queue.NewRun(
        id=firing.run_id,
        scheduled_at=firing.at + trigger.schedule_after,
        deployment=trigger.deployment,
        trigger_id=trigger.id,
        trigger_version=trigger.version,
        trigger=trigger.name,
        key=msgspec.json.encode(firing.key).decode(),
        labels=msgspec.json.encode(firing.labels).decode(),
        event_id=fire.event.id,
        event=event_json(fire.event),
        after_id=None if fire.after is None else fire.after.id,
        event_ids=[seen.id for seen in fire.counted],
        parameters=parameters,
        template=template,
        error=error,
    )


def _rendered(firing: Firing, defaults: _Defaults) -> tuple[str | None, str | None, str | None]:
    """Rendered parameters, or a template left to be rendered in a child process, or an error."""
    try:
        trigger = firing.trigger
        compiled = _compiled(defaults.parameters, trigger.parameters)
        if compiled.heavy:
            context = _context(firing, of_event=event_document)
            return None, json.dumps({"parameters": compiled.source, "context": context}), None
        rendered = compiled.render(_context(firing, of_event=event_view))
        breach = breach_of(defaults.parameter_schema, rendered)
        if breach is not None:
            return None, None, breach
        return msgspec.json.encode(rendered).decode(), None, None
    except UpshotError as error:
        return None, None, error.message
    except Exception as error:
        log.exception("render_raised", trigger=firing.trigger.name)
        return None, None, f"The parameters could not be rendered: {error!r}"


@lru_cache(maxsize=_PARAMETERS_CACHED_MAX)
def _compiled(deployment: str, trigger: str) -> Parameters:
    return compile_parameters(merged_source(json.loads(deployment), json.loads(trigger)))


def _context(firing: Firing, *, of_event: Callable[[Event], Mapping[str, Any]]) -> dict[str, Any]:
    """What the templates see; `after` and `events` only where they were kept with the key."""
    fire, trigger = firing.fire, firing.trigger

    def seen(one: Seen | None) -> Mapping[str, Any] | None:
        return None if one is None or one.event is None else of_event(one.event)

    return {
        "event": of_event(fire.event),
        "after": seen(fire.after) if trigger.keeps_after else None,
        "events": [seen(one) for one in fire.counted] if trigger.keeps_events else [],
        "labels": firing.labels,
        "trigger": trigger_document(trigger),
        "deployment": {"name": trigger.deployment},
    }


def _is_change(event: Event) -> bool:
    return event.name in (TRIGGER_SAVED, TRIGGER_DELETED)
