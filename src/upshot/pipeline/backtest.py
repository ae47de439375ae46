"""Backtests: stored events read again, page by page, and what triggers would have made of them."""

import asyncio
import json
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final
from uuid import UUID

import asyncpg

from upshot.core.backtest import Backtest, Found, Side
from upshot.core.errors import Conflict, Overloaded, UpshotError
from upshot.core.events import Event, event_json
from upshot.core.following import Turn
from upshot.core.keys import Key
from upshot.core.lifecycle import LOOP
from upshot.core.limits import (
    BACKTEST_ANSWER_BYTES_MAX,
    BACKTEST_EVENTS_LOADED,
    BACKTEST_HELD_FOR,
    BACKTEST_KEYS_MAX,
    BACKTEST_READ_EVENTS_MAX,
    BACKTEST_SECONDS_MAX,
    BACKTEST_SETTLED_EVENTS_MAX,
    BACKTEST_SLICE_SECONDS_MAX,
    BACKTESTS_AT_ONCE_MAX,
    BACKTESTS_HELD_KEYS_MAX,
    BACKTESTS_HELD_MAX,
    CHAIN_DEPTH_MAX,
)
from upshot.core.parameter_schema import breach_of
from upshot.core.runs import Firing, run_error
from upshot.core.triggers import Run, Trigger
from upshot.pipeline.firing import Defaults, depth_of, filled, fired_by, needed_by, parameters_of
from upshot.pipeline.render import Renderers
from upshot.storage import log as event_log
from upshot.storage import replay
from upshot.storage.events import Place
from upshot.storage.log import event_of

RETRY_AFTER_SECONDS: Final = 5
_NO_DEFAULTS: Final = Defaults(parameters="{}", parameter_schema=None)


@dataclass(frozen=True, slots=True)
class Tried:
    """A trigger, and what the deployments that it names give to its runs."""

    trigger: Trigger
    defaults: Mapping[str, Defaults]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A firing, as it is answered; JSON as text. `parameters` are those of its first run."""

    at: datetime
    key: Key
    labels: dict[str, str]
    event: str | None
    event_ids: list[UUID]
    parameters: str | None
    error: str | None
    only: Side | None

    @property
    def size(self) -> int:
        return len(self.event or "") + len(self.parameters or "") + 40 * len(self.event_ids) + 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some firings; the counts are of all that is behind. `open_keys` is known when it is over."""

    items: list[Shown]
    events: int
    concerned: int
    same: int | None
    open_keys: int | None
    since: datetime
    until: datetime
    reached: datetime
    is_over: bool
    note: str | None


class Running:
    """A backtest on its way through the log. Between two pages it is only memory."""

    def __init__(
        self,
        new: Tried,
        old: Tried | None,
        *,
        since: datetime,
        until: datetime,
        retention: timedelta,
        clock: Callable[[], float] = time.monotonic,
        keys_max: int = BACKTEST_KEYS_MAX,
        read_max: int = BACKTEST_READ_EVENTS_MAX,
    ) -> None:
        self._new, self._old = new, old
        self._since, self._until = since, until
        self._clock = clock
        self._keys_max, self._read_max = keys_max, read_max
        self._names = replay.names_wanted([one.trigger for one in (new, old) if one])
        self._backtest = Backtest(
            new.trigger, old.trigger if old else None, since=since, retention=retention
        )
        self._span: replay.Span | None = None
        self._log_begins_at: datetime | None = None
        self._after: Place | None = None
        self._is_read = False
        self._is_over = False
        self._events = 0
        self._events_before = 0
        """Those of the stretches before the one that `_rows` is of."""
        self._rows: deque[asyncpg.Record] = deque()
        self._ahead: asyncio.Task[replay.Stretch] | None = None
        """The next stretch, which is read while there is work with this one."""
        self._places: dict[UUID, Place] = {}
        """Of the events that those in `_rows` follow."""
        self._turns: deque[Turn] = deque()
        self._ready: deque[Found] = deque()
        """Firings with all their events."""
        self._here: dict[UUID, Event | None] = {}
        """The events whose turn it is; None: nobody wants it, or the log has lost it."""

    @property
    def remembered(self) -> int:
        """What its memory grows with: keys, and the events that they remember."""
        return self._backtest.remembered

    async def page(
        self, conn: asyncpg.Connection, *, limit: int, seconds: float = BACKTEST_SECONDS_MAX
    ) -> Page:
        """Go on until there are `limit` firings, the time is up, or the span is at its end."""
        ends_at = self._clock() + seconds
        pause_at = self._clock() + BACKTEST_SLICE_SECONDS_MAX
        if self._span is None:
            self._span = await replay.span_of(conn, since=self._since, until=self._until)
            self._log_begins_at = await replay.first_received_at(conn)
        items: list[Shown] = []
        size = 0
        try:
            async with Renderers(size=1) as renderers:
                while len(items) < limit and size < BACKTEST_ANSWER_BYTES_MAX:
                    if self._ready:
                        items.append(await self._shown(self._ready.popleft(), renderers))
                        size += items[-1].size
                    elif self._backtest.found:
                        await self._complete_some(conn)
                    elif self._is_done:
                        break
                    else:
                        await self._fetch(conn, self._span)
                        self._advance(found_max=limit - len(items), stops_at=pause_at)
                    now = self._clock()
                    if now >= ends_at:
                        break
                    if now >= pause_at:
                        # The server has other work than this.
                        await asyncio.sleep(0)
                        pause_at = self._clock() + BACKTEST_SLICE_SECONDS_MAX
        finally:
            await self._read_out()
        return await self._page_of(items)

    @property
    def _is_done(self) -> bool:
        is_at_end = self._is_over or self._is_too_large
        return is_at_end and not self._backtest.found and not self._ready

    @property
    def _is_too_large(self) -> bool:
        return self._backtest.remembered >= self._keys_max

    async def _fetch(self, conn: asyncpg.Connection, span: replay.Span) -> None:
        """Read what the next slice of work needs."""
        if self._turns:
            await self._load_released(conn)
        elif not self._rows and not self._is_read:
            ahead, self._ahead = self._ahead, None
            if ahead is None:
                ahead = self._read_ahead(conn, span, is_whole=self._backtest.holds_any)
            stretch = await ahead
            self._rows += stretch.rows
            self._events_before = self._events
            self._after, self._is_read = stretch.after, stretch.after is None
            followed = {row["follows"] for row in stretch.rows if row["follows"] is not None}
            self._places = await replay.places_of(conn, followed) if followed else {}
            if not self._is_read:
                is_whole = bool(followed) or self._backtest.holds_any
                self._ahead = self._read_ahead(conn, span, is_whole=is_whole)
                # So that it is asked for before the work begins.
                await asyncio.sleep(0)

    def _read_ahead(
        self, conn: asyncpg.Connection, span: replay.Span, *, is_whole: bool
    ) -> asyncio.Task[replay.Stretch]:
        """The next stretch. It must be whole where one of its events may be waited for."""
        return asyncio.create_task(
            replay.read(
                conn,
                span,
                after=self._after,
                limit=self._read_max,
                names=self._names,
                is_whole=is_whole,
            )
        )

    async def _read_out(self) -> None:
        """Wait until the connection is free for something else. What failed is read again."""
        if self._ahead is None:
            return
        try:
            await asyncio.wait([self._ahead])
        except asyncio.CancelledError:
            self._ahead.cancel()
            raise
        if self._ahead.exception() is not None:
            self._ahead = None

    async def _load_released(self, conn: asyncpg.Connection) -> None:
        """Events that have waited for another are read again in their turn."""
        next_turns = islice(self._turns, BACKTEST_EVENTS_LOADED)
        missing = [turn.id for turn in next_turns if turn.id not in self._here]
        if missing:
            await self._read_out()
            self._here.update(dict.fromkeys(missing))
            self._here.update(await event_log.load(conn, missing))

    def _advance(self, *, found_max: int, stops_at: float) -> None:
        """Work in memory, for no longer than others may be kept waiting."""
        goes_on = True
        while goes_on and not self._is_too_large:
            goes_on = self._advance_some(found_max=found_max) and self._clock() < stops_at
            self._backtest.settle()

    def _advance_some(self, *, found_max: int) -> bool:
        """False: something has to be read first, or enough is found, or all is done."""
        found = self._backtest.found
        for _ in range(BACKTEST_SETTLED_EVENTS_MAX):
            if not self._step() or len(found) >= found_max:
                return False
        return True

    def _step(self) -> bool:
        """One event or deadline. False: something has to be read first, or all is done."""
        if self._turns:
            return self._take(self._turns[0])
        if self._rows:
            self._arrive(self._rows.popleft())
            return True
        if not self._is_read:
            return False
        self._turns += self._backtest.overdue(before=self._until)
        if not self._turns:
            self._is_over = not self._backtest.end_next(until=self._until)
        return not self._is_over

    def _arrive(self, row: asyncpg.Record) -> None:
        self._events = self._events_before + row["number"]
        backtest, follows, received_at = self._backtest, row["follows"], row["received_at"]
        backtest.reach(row["reached_at"] or received_at)
        event = event_of(row) if row["wanted"] else None
        if follows is None and not backtest.holds_any:
            if event is not None and not backtest.take_next(event):
                self._turns.append(Turn(event.id, received_at))
                self._here[event.id] = event
            return
        event_id = row["id"]
        is_known = False
        if follows is not None:
            place = self._places.get(follows)
            is_before = place is not None and place < (row["xid"], row["position"])
            is_known = is_before and not backtest.waits(follows)
        self._turns += backtest.arrive(
            event_id, follows=follows, received_at=received_at, is_known=is_known
        )
        if not backtest.waits(event_id):
            self._here[event_id] = event

    def _take(self, turn: Turn) -> bool:
        if turn.id not in self._here:
            return False
        event = self._here[turn.id]
        if event is not None and self._backtest.decide_next(before=turn.now):
            return True
        self._turns.popleft()
        del self._here[turn.id]
        if event is not None:
            self._backtest.take(event, now=turn.now)
        return True

    async def _complete_some(self, conn: asyncpg.Connection) -> None:
        """Read again the events that were not kept in memory because the log has them."""
        some: list[Found] = []
        missing: set[UUID] = set()
        found = self._backtest.found
        while found and len(missing) < BACKTEST_EVENTS_LOADED:
            some.append(found.popleft())
            missing.update(seen.id for seen in needed_by(some[-1].firing) if seen.event is None)
        if missing:
            await self._read_out()
            events = await event_log.load(conn, missing)
            some = [Found(filled(one.firing, events), one.only) for one in some]
        self._ready += some

    async def _shown(self, found: Found, renderers: Renderers) -> Shown:
        tried = self._new if found.only is not Side.OLD else self._old
        assert tried is not None
        firing = found.firing
        parameters: list[str | None] = []
        errors: list[str] = []
        for place, action in firing.trigger.runs:
            rendered, error = await _rendered(firing, action, tried, renderers)
            parameters.append(rendered)
            if error is not None:
                errors.append(run_error(firing.trigger, place, error))
        event = fired_by(firing.fire)
        return Shown(
            at=firing.at,
            key=firing.key,
            labels=firing.labels,
            event=None if event is None else event_json(event),
            event_ids=[seen.id for seen in firing.fire.counted],
            parameters=parameters[0] if parameters else None,
            error=errors[0] if errors else None,
            only=found.only,
        )

    async def _page_of(self, items: list[Shown]) -> Page:
        return Page(
            items=items,
            events=self._events,
            concerned=self._backtest.concerned,
            same=self._backtest.same if self._old else None,
            open_keys=await self._count_open() if self._is_done else None,
            since=self._since,
            until=self._until,
            reached=self._until if self._is_over else self._backtest.clock,
            is_over=self._is_done,
            note=" ".join(self._notes()) or None,
        )

    async def _count_open(self) -> int:
        open_keys = 0
        for number, is_open in enumerate(self._backtest.are_open()):
            open_keys += is_open
            if number % BACKTEST_READ_EVENTS_MAX == 0:
                await asyncio.sleep(0)
        return open_keys

    def _notes(self) -> Iterator[str]:
        begins_at = self._log_begins_at
        if begins_at is None:
            yield "There are no events at all."
        elif self._since < begins_at:
            yield f"The log begins at {begins_at.isoformat()}; earlier events are not there."
        if self._is_too_large and not self._is_over:
            yield (
                f"It stopped early: its keys and their events are more than {self._keys_max:,}, "
                "which is all it may remember. Take a shorter span, or a narrower trigger."
            )
        if self._backtest.set_aside:
            yield (
                f"{self._backtest.set_aside} events could not be evaluated, the first because: "
                f"{self._backtest.reason}"
            )


async def _rendered(
    firing: Firing, action: Run, tried: Tried, renderers: Renderers
) -> tuple[str | None, str | None]:
    """The parameters of one of the firing's runs, or why it would fail."""
    if depth_of(firing) > CHAIN_DEPTH_MAX:
        return None, LOOP
    deployment = action.deployment or ""
    defaults = tried.defaults.get(deployment, _NO_DEFAULTS)
    parameters, template, error = parameters_of(firing, action, deployment, defaults)
    if template is None:
        return parameters, error
    heavy = json.loads(template)
    try:
        rendered = await renderers.render(heavy["parameters"], heavy["context"])
        error = breach_of(defaults.parameter_schema, rendered)
        return None if error else json.dumps(rendered), error
    except UpshotError as failed:
        return None, failed.message


class Backtests:
    """The backtests under way: a few at once, and a few that wait to be gone on with."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._running = 0
        self._held: OrderedDict[str, _Held] = OrderedDict()

    @contextmanager
    def another(self) -> Iterator[None]:
        """Raises Overloaded where there are enough of them."""
        if self._running >= BACKTESTS_AT_ONCE_MAX:
            raise Overloaded(
                f"{self._running} backtests are running; wait until one has ended.",
                RETRY_AFTER_SECONDS,
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def hold(self, running: Running) -> str:
        """Keep it for a while, under a token that only who is told it can know."""
        token = secrets.token_urlsafe(16)
        self._held[token] = _Held(running, self._now() + BACKTEST_HELD_FOR)
        self._drop()
        return token

    def take(self, token: str) -> Running:
        """Raises Conflict where it is gone: others came, time has passed, or it was taken."""
        self._drop()
        held = self._held.pop(token, None)
        if held is None:
            raise Conflict(
                "This backtest is not there any more: each cursor goes on once, within "
                f"{BACKTEST_HELD_FOR.total_seconds() / 60:g} minutes, and of many the oldest are "
                "dropped. Begin again, without cursor."
            )
        return held.running

    def _drop(self) -> None:
        """The oldest first. One alone may be as large as any."""
        now = self._now()
        while self._held:
            oldest = next(iter(self._held.values()))
            remembered = sum(held.running.remembered for held in self._held.values())
            is_too_much = len(self._held) > 1 and remembered > BACKTESTS_HELD_KEYS_MAX
            if now < oldest.until and len(self._held) <= BACKTESTS_HELD_MAX and not is_too_much:
                return
            self._held.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Held:
    running: Running
    until: datetime
