"""The shop's story as requests of Prefect's API, which both servers get, byte for byte alike.

Users create orders, a wave of them at a time, and then complete them, so that every second event
fires. In waves, because Prefect's server takes up several events at once: of an order that is
complete within the same request it sees the end first, and fires nothing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aiohttp
from aiohttp import web

from benchmarks.figures import percentile
from benchmarks.processes import Failed
from benchmarks.rivals import Rival

ORDER = ("order.created", "order.complete")
PARCEL = ("parcel.sent", "parcel.arrived")
LISTENS_WITHIN_SECONDS = 60.0
QUIET_SECONDS = 60.0
STORED_WITHIN_SECONDS = 60.0
PLAYED_WITHIN_SECONDS = 1_800.0
POLL_SECONDS = 0.1
WAVE, WAVE_PACED = 500, 10
USER = {"user_id": "{{ event.resource.id }}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What became of a story told in batches. Seconds count from the first post."""

    events: int
    accepted: int
    stored: int
    firings: int
    fired: int
    runs: int
    users_with_runs: int
    posted_seconds: float
    seconds: float
    is_cut_short: bool

    @property
    def lost(self) -> int:
        """Firings that came to no run."""
        return self.firings - self.users_with_runs

    @property
    def twice(self) -> int:
        """Runs beyond the one of each user."""
        return self.runs - self.users_with_runs

    @property
    def is_whole(self) -> bool:
        return (
            self.accepted == self.stored == self.events
            and self.fired == self.runs == self.users_with_runs == self.firings
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What became of a story told event by event. Milliseconds, of the calls that came."""

    events: int
    accepted: int
    firings: int
    called: int
    calls: int
    milliseconds: tuple[float, ...] = field(repr=False)

    @property
    def lost(self) -> int:
        return self.firings - self.called

    @property
    def twice(self) -> int:
        return self.calls - self.called

    @property
    def is_whole(self) -> bool:
        return self.accepted == self.events and self.calls == self.called == self.firings

    def percentile(self, share: float) -> float | None:
        """None: no call came."""
        return percentile(self.milliseconds, share) if self.milliseconds else None


async def play(rival: Rival, *, users: int, batch: int) -> Played:
    """Post the story in batches, and wait for its runs, or until no more of them come."""
    automation = await _automate(rival, ORDER, await _run_deployment(rival))
    await _until_it_listens(rival)
    began_at = time.monotonic()
    accepted = 0
    for part in _parts(users, batch):
        if await _post(rival, [_event(name, user) for name, user in part]):
            accepted += len(part)
    posted_at = time.monotonic()
    ended_at, is_cut_short = await _last_run(rival, users, since=began_at)
    await _until_stored(rival, accepted)
    played = Played(
        events=2 * users,
        accepted=accepted,
        stored=await rival.stored(list(ORDER)),
        firings=users,
        fired=await rival.fired(),
        runs=await rival.runs_of("user-%"),
        users_with_runs=await rival.users_with_runs(),
        posted_seconds=posted_at - began_at,
        seconds=ended_at - began_at,
        is_cut_short=is_cut_short,
    )
    await rival.request("DELETE", f"/automations/{automation}")
    return played


async def time_calls(rival: Rival, *, seconds: float, per_second: float) -> Timed:
    """Post event by event at a fixed rate; each second one has an automation call a webhook.

    Timed is from when the post was due to be sent, so that a slow answer hides nothing.
    """
    users = round(seconds * per_second / 2)
    async with _receiver() as receiver:
        await _automate(rival, PARCEL, await _call_webhook(rival, receiver.url))
        await _until_it_calls(rival, receiver)
        due: dict[str, float] = {}
        begins_at = time.monotonic() + 0.1
        async with asyncio.TaskGroup() as posts:
            sent = []
            for number, (name, user) in enumerate(_told(users, PARCEL, wave=WAVE_PACED)):
                at = begins_at + number / per_second
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                due[user] = at
                sent.append(posts.create_task(_post(rival, [_event(name, user)])))
        await receiver.until_called_by(users)
    called = {user: at for user, at in receiver.first_at.items() if user in due}
    return Timed(
        events=2 * users,
        accepted=sum(task.result() for task in sent),
        firings=users,
        called=len(called),
        calls=sum(receiver.calls[user] for user in called),
        milliseconds=tuple((at - due[user]) * 1_000 for user, at in called.items()),
    )


def _told(users: int, names: tuple[str, str], *, wave: int) -> Iterator[tuple[str, str]]:
    """The story: the name of each event, and its user."""
    for first in range(0, users, wave):
        for name in names:
            for number in range(first, min(first + wave, users)):
                yield name, f"user-{number:07d}"


def _parts(users: int, batch: int) -> Iterator[list[tuple[str, str]]]:
    told = _told(users, ORDER, wave=WAVE)
    while part := [one for _, one in zip(range(batch), told, strict=False)]:
        yield part


def _event(name: str, user: str) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "resource": {"prefect.resource.id": user},
        "related": [],
        "payload": {"total": 99.5, "currency": "EUR", "items": [{"sku": "A-100", "count": 2}]},
    }


async def _post(rival: Rival, events: list[dict[str, Any]]) -> bool:
    """Whether they were accepted. A refusal counts, and ends nothing."""
    try:
        await rival.request("POST", "/events", events)
    except (Failed, aiohttp.ClientError, TimeoutError):
        return False
    return True


async def _automate(rival: Rival, names: tuple[str, str], action: dict[str, Any]) -> str:
    """The id of an automation: the second event after the first, of the same user."""
    after, expect = names
    made = await rival.request(
        "POST",
        "/automations/",
        {
            "name": expect,
            "description": "",
            "enabled": True,
            "trigger": {
                "type": "event",
                "posture": "Reactive",
                "after": [after],
                "expect": [expect],
                "for_each": ["prefect.resource.id"],
                "threshold": 1,
                "within": 0,
            },
            "actions": [action],
        },
    )
    return str(made["id"])


async def _run_deployment(rival: Rival) -> dict[str, Any]:
    """The action that makes runs, which nobody picks up."""
    flow = await rival.request("POST", "/flows/", {"name": "post-order-complete"})
    deployment = await rival.request(
        "POST", "/deployments/", {"name": "post-order-complete", "flow_id": flow["id"]}
    )
    return {
        "type": "run-deployment",
        "source": "selected",
        "deployment_id": deployment["id"],
        "parameters": USER,
    }


async def _call_webhook(rival: Rival, url: str) -> dict[str, Any]:
    """The action that calls this URL, which a block holds."""
    kind = await rival.request("GET", "/block_types/slug/webhook")
    of_this = {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}, "limit": 1}
    (schema, *_) = await rival.request("POST", "/block_schemas/filter", of_this)
    block = await rival.request(
        "POST",
        "/block_documents/",
        {
            "name": "receiver",
            "data": {"method": "POST", "url": url},
            "block_type_id": kind["id"],
            "block_schema_id": schema["id"],
        },
    )
    return {
        "type": "call-webhook",
        "block_document_id": block["id"],
        "payload": "{{ event.resource.id }}",
    }


async def _until_it_listens(rival: Rival) -> None:
    """An automation may take effect a moment after it is made: try until one of others fires."""

    async def fires() -> bool:
        return await rival.runs_of("probe-%") > 0

    await _probe_until(fires, rival, ORDER)


async def _until_it_calls(rival: Rival, receiver: "Receiver") -> None:
    async def calls() -> bool:
        return bool(receiver.calls)

    await _probe_until(calls, rival, PARCEL)


async def _probe_until(
    is_so: Callable[[], Awaitable[bool]], rival: Rival, names: tuple[str, str]
) -> None:
    probes = 0
    deadline = time.monotonic() + LISTENS_WITHIN_SECONDS
    while not await is_so():
        if time.monotonic() > deadline:
            raise Failed(f"{rival.title}: no automation fires for {' and '.join(names)}")
        probes += 1
        for name in names:
            await _post(rival, [_event(name, f"probe-{probes}")])
            await asyncio.sleep(1)


async def _last_run(rival: Rival, wanted: int, *, since: float) -> tuple[float, bool]:
    """When the number of runs was last seen to grow, and whether waiting was given up then.

    It is given up when none has come for a minute, and after half an hour in any case.
    """
    seen, seen_at = 0, since
    while seen < wanted:
        found = await rival.runs_of("user-%")
        now = time.monotonic()
        if found > seen:
            seen, seen_at = found, now
        elif now - seen_at > QUIET_SECONDS:
            return seen_at, False
        if now - since > PLAYED_WITHIN_SECONDS:
            return seen_at, True
        await asyncio.sleep(POLL_SECONDS)
    return seen_at, False


async def _until_stored(rival: Rival, accepted: int) -> None:
    """Until what was accepted is stored, what fired is told, and a while, if it never is."""
    deadline = time.monotonic() + STORED_WITHIN_SECONDS
    while time.monotonic() < deadline:
        if await rival.stored(list(ORDER)) >= accepted and 2 * await rival.fired() >= accepted:
            return
        await asyncio.sleep(POLL_SECONDS)


@dataclass(slots=True)
class Receiver:
    """Where webhooks arrive; the body of each is a user."""

    url: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    first_at: dict[str, float] = field(default_factory=dict)
    last_at: float = 0.0

    async def take(self, request: web.Request) -> web.Response:
        at = time.monotonic()
        try:
            user = (await request.text()).strip('"')
        except OSError:
            # The caller broke off within the call, which then has not come.
            return web.Response()
        self.calls[user] += 1
        self.first_at.setdefault(user, at)
        self.last_at = at
        return web.Response()

    async def until_called_by(self, users: int) -> None:
        """Wait for so many users, or until no call has come for a minute."""
        began_at = time.monotonic()
        while sum(user.startswith("user-") for user in self.calls) < users:
            now = time.monotonic()
            if now - max(self.last_at, began_at) > QUIET_SECONDS:
                return
            if now - began_at > PLAYED_WITHIN_SECONDS:
                return
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def _receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/run", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        receiver.url = f"http://127.0.0.1:{port}/run"
        yield receiver
    finally:
        await runner.cleanup()
