"""The pipeline with its clock in a test's hand: what is posted was received when the test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from tests.api.conftest import RUNNER, Posting, opened, settings_of
from tests.core.reference.lines import FIRST_DAY, Line, Story, time
from upshot.api.app import create_app
from upshot.api.services import Services
from upshot.core.limits import DOWNTIME_MIN, EVENTS_PER_REQUEST_MAX
from upshot.pipeline.evaluate import Evaluator, Progress
from upshot.pipeline.ingest import Ingest
from upshot.pipeline.render import Renderers
from upshot.storage import log, triggers
from upshot.storage.database import Database
from upshot.workers import loops
from upshot.workers.offers import Offers
from upshot.workers.signals import Signals

RETENTION = timedelta(days=90)
_NEVER_DOWN = timedelta.max
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Made:
    """A run, as a firing that can be compared with one of the core."""

    trigger: str
    at: datetime
    labels: Mapping[str, str]
    event_id: UUID | None
    event_ids: tuple[UUID, ...]
    parameters: dict[str, Any] | None
    error: str | None


@dataclass(slots=True)
class Timed:
    """Lines as for `simulate` go in through the API, and runs come out.

    The evaluator is taken up anew whenever the test asks. All happens yesterday, so that no
    deadline is ahead of the database's own clock.
    """

    database: Database
    conn: asyncpg.Connection
    client: httpx.AsyncClient
    moved_by: timedelta
    clock: datetime = _LONG_AGO
    _stamped: int = 0
    _evaluator: Evaluator | None = field(default=None, init=False)

    def moved(self, line: Line) -> Line:
        """The line, as of yesterday."""
        times = {"occurred", "received", "now"}
        return {name: self._later(v) if name in times else v for name, v in line.items()}

    async def empty(self) -> None:
        """Begin again with no triggers, events and runs."""
        tables = (
            "events", "event_ids", "cursors", "triggers", "triggers_in_force", "windows",
            "held_events", "runs", "run_queue", "evaluation_errors",
        )  # fmt: skip
        await self.conn.execute("; ".join(f"DELETE FROM {table}" for table in tables))
        self.clock = _LONG_AGO
        self._evaluator = None

    def pass_to(self, when: str) -> None:
        """`10:00:05`, as in the lines; the clock never goes back."""
        self.clock = max(self.clock, self._at(when))

    async def put(self, trigger: Line, when: str | None = None, *, keys: str | None = None) -> None:
        body = {name: value for name, value in trigger.items() if name != "name"}
        params = {} if keys is None else {"keys": keys}
        await self._change("PUT", trigger["name"], when, json=body, params=params)

    async def enable(self, name: str = "t", when: str | None = None) -> None:
        await self._change("PATCH", name, when, json={"enabled": True})

    async def disable(self, name: str = "t", when: str | None = None) -> None:
        await self._change("PATCH", name, when, json={"enabled": False})

    async def delete(self, name: str = "t", when: str | None = None) -> None:
        await self._change("DELETE", name, when)

    async def forget(self, *key: str, name: str = "t", when: str | None = None) -> None:
        """The key is forgotten, as the API asks for it."""
        if when is not None:
            self.pass_to(when)
        async with self.database.begin() as conn:
            trigger = await triggers.load(conn, name)
            assert trigger is not None
            await triggers.append_key_forgotten(conn, trigger, key=key)
        await self._stamp_changes()

    async def post(self, *lines: Line) -> None:
        """Events, each in one request with its neighbours."""
        await self.post_moved(*map(self.moved, lines))

    async def post_moved(self, *lines: Line) -> None:
        """Likewise, of lines that are as of yesterday already."""
        for start in range(0, len(lines), EVENTS_PER_REQUEST_MAX):
            await self._post(lines[start : start + EVENTS_PER_REQUEST_MAX])

    async def restart(self, *, after_downtime: bool = False) -> None:
        """Take up the evaluator anew where it stands, as a server that is started."""
        self._evaluator = await Evaluator.load(
            self.conn,
            key_retention=RETENTION,
            downtime_min=DOWNTIME_MIN if after_downtime else _NEVER_DOWN,
        )

    async def turn(self, when: str | None = None, **more: Any) -> Progress:
        """One turn of the evaluator, at that time."""
        if when is not None:
            self.pass_to(when)
        if self._evaluator is None:
            await self.restart()
        assert self._evaluator is not None
        more.setdefault("decide_until", self.clock)
        return await self._evaluator.turn(**more)

    async def evaluate(self, when: str | None = None, **more: Any) -> None:
        """Evaluate all that is posted, and decide all that is due by then."""
        if when is not None:
            self.pass_to(when)
        while _has_more(await self.turn(**more)):
            pass
        await self.settle()

    async def settle(self) -> None:
        """All is evaluated up to our clock, and not up to the database's."""
        await self.conn.execute("UPDATE cursors SET evaluated_until = $1", self.clock)
        await self.restart()

    async def fired(self) -> Story:
        """All runs so far, in the times of the lines, one after the other by time and key."""
        made = await self.made()
        moved = [
            Made(
                trigger=one.trigger,
                at=one.at - self.moved_by,
                labels=one.labels,
                event_id=one.event_id,
                event_ids=one.event_ids,
                parameters=one.parameters,
                error=one.error,
            )
            for one in made
        ]
        return Story(sorted(moved, key=lambda one: (one.at, one.trigger, sorted(one.labels))))

    async def made(self) -> list[Made]:
        """All runs so far."""
        rows = await self.conn.fetch(
            "SELECT trigger, scheduled_at, labels, event_id, event_ids, parameters, error FROM runs"
        )
        return [
            Made(
                trigger=row["trigger"],
                at=row["scheduled_at"],
                labels=json.loads(row["labels"]),
                event_id=row["event_id"],
                event_ids=tuple(row["event_ids"]),
                parameters=row["parameters"] and json.loads(row["parameters"]),
                error=row["error"],
            )
            for row in rows
        ]

    async def _post(self, lines: Sequence[Line]) -> None:
        events = [{k: v for k, v in line.items() if k != "received"} for line in lines]
        answer = await self.client.post("/v1/events", json=events)
        ids, times = [], []
        for line, result in zip(lines, answer.json()["results"], strict=True):
            received = line.get("received") or line["occurred"]
            self.clock = max(self.clock, datetime.fromisoformat(received))
            if result["status"] == "accepted":
                ids.append(result["id"])
                times.append(self.clock)
        await self.conn.execute(
            "UPDATE events SET received_at = told.at "
            "FROM unnest($1::uuid[], $2::timestamptz[]) AS told (id, at) WHERE events.id = told.id",
            ids,
            times,
        )

    async def _change(self, method: str, name: str, when: str | None, **request: Any) -> None:
        if when is not None:
            self.pass_to(when)
        answer = await self.client.request(method, f"/v1/triggers/{name}", **request)
        assert answer.is_success, answer.text
        await self._stamp_changes()

    async def _stamp_changes(self) -> None:
        """The entries of the log that were just written, which follow all that were before."""
        newest = "(SELECT coalesce(max(position), 0) FROM events)"
        await self.conn.execute(
            "UPDATE events SET received_at = $1, occurred_at = $1 "
            "WHERE position > $2 AND name LIKE 'upshot.%'",
            self.clock,
            self._stamped,
        )
        self._stamped = await self.conn.fetchval(f"SELECT {newest}")

    def _at(self, when: str) -> datetime:
        return datetime.fromisoformat(time(when)) + self.moved_by

    def _later(self, written: str) -> str:
        return (datetime.fromisoformat(written) + self.moved_by).isoformat()


@asynccontextmanager
async def timed(database: Database) -> AsyncIterator[Timed]:
    """An empty database with a deployment `d`, whose runs stay as they are made."""
    ingest = Ingest(on_stored=lambda: None)
    line = loops.Line(database, Signals(), asyncio.Event())
    app = create_app(
        Services(
            settings=settings_of(),
            database=database,
            ingest=Posting(ingest, line),
            offers=Offers(line, Renderers()),
            wake=lambda _: None,
            not_ready=lambda: None,
            now=lambda: datetime.now(UTC),
        )
    )
    conn, writer = await database.connect(**log.READER_SETTINGS), await database.connect()
    writing = asyncio.create_task(ingest.write(writer))
    await opened(ingest)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8484") as client:
        made = await client.put("/v1/deployments/d", json={"runner": RUNNER, "enabled": False})
        assert made.is_success, made.text
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        yesterday = today - timedelta(days=1)
        yield Timed(database, conn, client, moved_by=yesterday - FIRST_DAY)
    writing.cancel()
    await asyncio.wait({writing})
    await writer.close()
    await conn.close()


def _has_more(progress: Progress) -> bool:
    return bool(progress.events) or progress.is_behind
