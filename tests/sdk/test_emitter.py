"""Events go out in the background, in order and in batches; what does not is said."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.ports import free_port
from tests.sdk.fake import Answer, FakeServer, stored
from upshot import Event, EventLost
from upshot.sdk.emitter import Emitter
from upshot.sdk.limits import EVENT_BYTES_MAX, EVENTS_PER_REQUEST_MAX
from upshot.sdk.server import Server

pytestmark = pytest.mark.anyio

Event_ = dict[str, Any]


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


def emitter_for(url: str, **more: Any) -> Emitter:
    return Emitter(Server(url=url, api_key=None), **more)


def made(number: int = 0, **more: Any) -> Event:
    fields: dict[str, Any] = {
        "event": "order.created",
        "resource": {"id": str(number)},
        "related": None,
        "payload": None,
        "occurred": None,
        "id": None,
        "follows": None,
    }
    return Event.make(**{**fields, **more})


async def flushed(emitter: Emitter, *, within: float = 10) -> int:
    return await asyncio.to_thread(emitter.flush, within=within)


async def closed(emitter: Emitter, *, within: float = 0) -> None:
    await asyncio.to_thread(emitter.close, within=within)


async def test_events_arrive_in_their_order_in_batches_and_once(fake: FakeServer) -> None:
    emitter = emitter_for(fake.url)
    for number in range(1_200):
        emitter.put(made(number))
    assert await flushed(emitter) == 0
    assert [event["resource"]["id"] for post in fake.posts for event in post] == [
        str(number) for number in range(1_200)
    ]
    assert max(map(len, fake.posts)) == EVENTS_PER_REQUEST_MAX
    assert len(fake.posts) <= 4


async def test_a_batch_that_fails_is_sent_again_with_the_same_ids_and_times(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "upshot")
    answers: Any = iter([(503, {}), (500, {}), (429, {}), (404, {"detail": "a proxy"})])
    fake.on_events = lambda events: next(answers, None)
    emitter = emitter_for(fake.url)
    stored = emitter.put(made())
    assert await flushed(emitter) == 0
    assert len(fake.posts) == 5
    assert all(post == fake.posts[0] for post in fake.posts)
    assert stored.exception() is None
    assert "events wait until they can be sent" in caplog.text
    assert "events are sent again" in caplog.text


async def test_events_put_while_no_server_is_there_are_sent_when_there_is() -> None:
    port = free_port()
    emitter = emitter_for(f"http://127.0.0.1:{port}")
    for number in range(100):
        emitter.put(made(number))
    async with FakeServer(port=port) as server:
        assert await flushed(emitter) == 0
        assert sum(map(len, server.posts)) == 100


async def test_a_refused_event_is_said_and_its_neighbours_are_stored(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    def one_refused(events: list[Event_]) -> Answer:
        answer = stored(events)
        answer["results"][0] = {"status": "rejected", "error": {"detail": "payload: no"}}
        return (207 if len(events) > 1 else 422), answer

    fake.on_events = one_refused
    emitter = emitter_for(fake.url)
    bad = made()
    failing = emitter.put(bad)
    await flushed(emitter)
    assert isinstance(failing.exception(), EventLost)
    assert f"event {bad.id} (order.created) is lost, it was refused: payload: no" in caplog.text
    assert len(fake.posts) == 1


async def test_a_request_that_is_too_large_is_split_until_it_fits(fake: FakeServer) -> None:
    fake.on_events = lambda events: (413, {}) if len(events) > 2 else None
    emitter = emitter_for(fake.url)
    futures = [emitter.put(made(number)) for number in range(20)]
    await flushed(emitter)
    assert all(future.exception() is None for future in futures)
    taken = [event["resource"]["id"] for post in fake.posts if len(post) <= 2 for event in post]
    assert taken == [str(number) for number in range(20)]


async def test_a_full_queue_drops_the_newest_says_so_and_never_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    emitter = emitter_for("http://127.0.0.1:1", queued_max=10)
    futures = [emitter.put(made(number)) for number in range(25)]
    assert emitter.dropped == 15
    assert not any(future.done() for future in futures[:10])
    assert all(isinstance(future.exception(), EventLost) for future in futures[10:])
    await closed(emitter)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said[0].startswith("1 events dropped, 1 in all")
    assert said[1].startswith("14 events dropped, 15 in all")
    assert said[2].startswith("10 events could not be sent")


async def test_what_is_changed_after_emitting_does_not_reach_the_event(fake: FakeServer) -> None:
    emitter = emitter_for(fake.url)
    payload = {"lines": [1]}
    event = made(payload=payload)
    payload["lines"].append(2)
    emitter.put(event)
    await flushed(emitter)
    assert fake.posts[0][0]["payload"] == {"lines": [1]}


def test_an_event_is_written_as_the_api_has_it() -> None:
    import json

    first = made()
    at = datetime(2026, 1, 5, 8, tzinfo=UTC)
    event_id = uuid4()
    event = made(
        related=[{"id": "7", "role": "customer"}],
        payload={"total": 99.5, "at": at, "user": event_id},
        occurred=at.replace(tzinfo=None),
        id=str(event_id),
        follows=first,
    )
    assert json.loads(event.body) == {
        "id": str(event_id),
        "event": "order.created",
        "resource": {"id": "0"},
        "related": [{"id": "7", "role": "customer"}],
        "payload": {"total": 99.5, "at": "2026-01-05T08:00:00Z", "user": str(event_id)},
        "occurred": "2026-01-05T08:00:00+00:00",
        "follows": str(first.id),
    }
    assert (first.id.version, first.id.variant) == (7, UUID(int=1 << 63).variant)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"event": ""}, "1 to 1,024 characters"),
        ({"event": "upshot.run.failed"}, "Upshot's own"),
        ({"resource": {"name": "x"}}, "needs a 'prefect.resource.id'"),
        ({"payload": {"x": object()}}, "no JSON"),
        ({"payload": {"x": float("nan")}}, "not JSON compliant"),
        ({"payload": {"x": "y" * EVENT_BYTES_MAX}}, "at most 262,144 fit"),
        ({"id": "7"}, "badly formed"),
    ],
)
def test_what_is_no_event_is_refused_where_it_is_emitted(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made(**wrong)


async def process(code: str, url: str) -> tuple[str, str]:
    """What a program that uses the SDK says."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import upshot\nfrom upshot import emit_event, aemit_event\n{code}",
        env={**os.environ, "UPSHOT_API_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await running.communicate()
    return out.decode(), err.decode()


def names(fake: FakeServer) -> list[str]:
    return [event["event"] for post in fake.posts for event in post]


async def test_what_a_program_emits_is_flushed_when_it_ends(fake: FakeServer) -> None:
    code = "for n in range(300): emit_event(event=f'e{n}', resource={'id': '1'})"
    assert await process(code, fake.url) == ("", "")
    assert names(fake) == [f"e{number}" for number in range(300)]


async def test_with_wait_an_event_is_stored_when_the_call_returns(fake: FakeServer) -> None:
    code = (
        "import asyncio, os\n"
        "emit_event(event='first', resource={'id': '1'})\n"
        "emit_event(event='second', resource={'id': '1'}, wait=True)\n"
        "asyncio.run(aemit_event(event='third', resource={'id': '1'}, wait=True))\n"
        "os._exit(0)"
    )
    await process(code, fake.url)
    assert names(fake) == ["first", "second", "third"]


async def test_with_wait_a_refusal_is_raised(fake: FakeServer) -> None:
    fake.on_events = lambda events: (
        422,
        {"results": [{"status": "rejected", "error": {"detail": "payload: no"}}]},
    )
    code = (
        "try: emit_event(event='e', resource={'id': '1'}, wait=True)\n"
        "except upshot.EventLost as error: print(error)"
    )
    out, _ = await process(code, fake.url)
    assert "was refused: payload: no" in out


async def test_a_forked_child_sends_its_own_events_and_not_its_parents(fake: FakeServer) -> None:
    code = (
        "import os\n"
        "emit_event(event='parent', resource={'id': '1'})\n"
        "child = os.fork()\n"
        "if child: os.waitpid(child, 0)\n"
        "else: emit_event(event='child', resource={'id': '1'})"
    )
    await process(code, fake.url)
    assert sorted(names(fake)) == ["child", "parent"]
