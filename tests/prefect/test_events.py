"""`/api/events`: posted in lists, asked for in pages, counted."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import Api
from upshot.core.limits import ROWS_SCANNED_MAX
from upshot.prefect import events

pytestmark = pytest.mark.anyio


def event(n: int, **more: Any) -> dict[str, Any]:
    """As the client's model dumps one."""
    return {
        "id": str(uuid4()),
        "event": "counted",
        "resource": {"prefect.resource.id": f"r.{n % 3}", "parity": "odd" if n % 2 else "even"},
        "related": [{"prefect.resource.id": "user.1", "prefect.resource.role": "user"}],
        "payload": {"n": n},
        "occurred": (datetime.now(UTC) - timedelta(hours=1) + timedelta(seconds=n)).isoformat(),
        "follows": None,
        **more,
    }


async def post(api: Api, *posted: dict[str, Any]) -> None:
    answer = await api.client.post("/api/events/", json=list(posted))
    assert answer.status_code == 204, answer.text


async def filtered(api: Api, limit: int = 50, **filters: Any) -> Any:
    answer = await api.client.post("/api/events/filter", json={"filter": filters, "limit": limit})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def numbers(api: Api, limit: int = 50, **filters: Any) -> list[list[int]]:
    """The numbers on each page."""
    page = await filtered(api, limit, **filters)
    pages = [page]
    while page["next_page"]:
        answer = await api.client.get(page["next_page"])
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages.append(page)
    return [[one["payload"]["n"] for one in page["events"]] for page in pages]


async def test_posted_events_are_shown_as_they_were(api: Api) -> None:
    sent = event(1)
    await post(api, sent)
    (shown,) = (await filtered(api))["events"]
    assert shown.pop("received")
    assert datetime.fromisoformat(shown.pop("occurred")) == datetime.fromisoformat(
        sent.pop("occurred")
    )
    assert shown == sent


async def test_an_event_posted_again_is_stored_once(api: Api) -> None:
    sent = event(1)
    await post(api, sent, event(2))
    await post(api, sent)
    assert (await filtered(api))["total"] == 2


async def test_no_events_are_no_mistake(api: Api) -> None:
    await post(api)


async def test_fields_that_are_not_known_are_ignored(api: Api) -> None:
    await post(api, event(1, received="2026-01-31T12:00:00Z", size_bytes=7, account=None))
    assert await numbers(api) == [[1]]


async def test_a_bad_event_is_told_of_and_the_others_are_stored(api: Api) -> None:
    answer = await api.client.post("/api/events", json=[event(1), {"event": "x"}, event(2), 7])
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("2 of 4 events are rejected, the others are stored.")
    assert [problem["loc"][0] for problem in answer.json()["errors"]] == [1, 3]
    assert await numbers(api) == [[2, 1]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 400),
        ("{}", 400),
        ("nonsense", 400),
        ("[1", 400),
        ("[NaN]", 422),
        ('["\\u0000"]', 422),
        ('[{"event": "\\ud800"}]', 422),
        ("[" * 100_000, 400),
        ("[" + "{}," * 1_000 + "{}]", 413),
    ],
    ids=lambda part: str(part)[:20],
)
async def test_what_is_no_list_of_events_is_refused(api: Api, body: str, status: int) -> None:
    answer = await api.client.post("/api/events", content=body)
    assert answer.status_code == status, answer.text


async def test_pages_follow_each_other_without_a_gap(api: Api) -> None:
    await post(api, *map(event, range(25)))
    newest = list(range(24, -1, -1))
    pages = await numbers(api, 10)
    assert pages == [newest[:10], newest[10:20], newest[20:]]
    assert await numbers(api, 10, order="ASC") == [list(one)[::-1] for one in (
        range(9, -1, -1), range(19, 9, -1), range(24, 19, -1)
    )]  # fmt: skip
    assert (await filtered(api, 10))["total"] == 25
    assert await numbers(api, 0) == [[]]


async def test_filters_narrow_what_is_found(api: Api) -> None:
    await post(api, *map(event, range(12)))
    await post(api, event(100, event="other_thing"), event(101, event="otherXthing"))
    assert await numbers(api, event={"prefix": ["other_"]}) == [[100]]
    assert await numbers(api, 4, resource={"id": ["r.1"], "labels": {"parity": "odd"}}) == [[7, 1]]
    even = {"resource": {"labels": {"parity": "e*"}}, "event": {"name": ["counted"]}}
    assert await numbers(api, 2, **even) == [[10, 8], [6, 4], [2, 0]]
    assert await numbers(api, 1, related={"role": ["nobody"]}) == [[]]
    assert await numbers(api, text={"query": "otherxthing"}) == [[101]]
    assert await numbers(api, resource={"distinct": True}, event={"name": ["counted"]}) == [
        [11, 10, 9]
    ]
    since = (datetime.now(UTC) - timedelta(hours=1) + timedelta(seconds=50)).isoformat()
    assert await numbers(api, occurred={"since": since}) == [[101, 100]]


async def test_events_are_found_by_their_ids(api: Api) -> None:
    sent = list(map(event, range(10)))
    await post(api, *sent)
    ids = [one["id"] for one in sent[::2]] + [str(uuid4())]
    assert await numbers(api, 2, id={"id": ids}) == [[8, 6], [4, 2], [0]]
    assert await numbers(api, 4, id={"id": ids}, order="ASC") == [[0, 2, 4, 6], [8]]


async def test_a_page_may_be_short_and_the_next_goes_on(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ROWS_SCANNED_MAX > 10
    monkeypatch.setattr(events, "ROWS_SCANNED_MAX", 10)
    await post(api, event(0, event="rare"), *map(event, range(1, 25)), event(25, event="rare"))
    pages = await numbers(api, 50, event={"name": ["rare"]})
    assert [n for page in pages for n in page] == [25, 0]
    assert len(pages) == 3


@pytest.mark.parametrize(
    "token", ["", "!", "é", "WzFd", "bnVsbA", "W3t9LFsxLDJdLDEwLDFd" * 2, "x" * 60_000]
)
async def test_a_token_that_is_none_is_refused(api: Api, token: str) -> None:
    answer = await api.client.get("/api/events/filter/next", params={"page-token": token})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"filter": []},
        {"filter": {"order": "?"}},
        {"limit": -1},
        {"limit": "x"},
        {"filter": {"occurred": {"since": "0001-01-01T00:00:00Z"}}},
    ],
    ids=str,
)
async def test_what_is_no_filter_is_refused(api: Api, body: Any) -> None:
    assert (await api.client.post("/api/events/filter", json=body)).status_code == 422


async def test_a_filter_that_no_link_can_hold_is_refused_where_it_would_have_to(api: Api) -> None:
    await post(api, *map(event, range(3)))
    many = {"event": {"exclude_name": [f"{n:0100}" for n in range(200)]}}
    assert len((await filtered(api, 10, **many))["events"]) == 3
    answer = await api.client.post("/api/events/filter", json={"filter": many, "limit": 2})
    assert answer.status_code == 422


async def test_events_are_counted(api: Api) -> None:
    await post(api, *map(event, range(10)))
    since = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    asked = {"filter": {"occurred": {"since": since}}, "time_unit": "hour", "time_interval": 1}

    async def counted(countable: str) -> list[tuple[str, int]]:
        answer = await api.client.post(f"/api/events/count-by/{countable}", json=asked)
        assert answer.status_code == 200, answer.text
        return [(one["value"], one["count"]) for one in answer.json()]

    assert await counted("event") == [("counted", 10)]
    assert await counted("resource") == [("r.0", 4), ("r.1", 3), ("r.2", 3)]
    assert sum(number for _, number in await counted("time")) == 10
    assert sum(number for _, number in await counted("day")) == 10
    assert (await api.client.get("/api/events/count-by/event")).json()[0]["count"] == 10


@pytest.mark.parametrize(
    ("countable", "body"),
    [
        ("colour", {}),
        ("time", {"time_unit": "year"}),
        ("time", {"time_unit": "second"}),
        ("time", {"time_interval": 0}),
        ("time", {"time_interval": 1e308}),
        ("time", {"time_interval": "x"}),
    ],
    ids=str,
)
async def test_what_cannot_be_counted_is_refused(api: Api, countable: str, body: Any) -> None:
    answer = await api.client.post(f"/api/events/count-by/{countable}", json=body)
    assert answer.status_code == 422, answer.text


async def test_more_events_than_are_counted_are_said_to_be(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVENTS_COUNTED_MAX", 10)
    await post(api, *map(event, range(9)))
    assert (await api.client.post("/api/events/count-by/event", json={})).status_code == 200
    await post(api, *map(event, range(9, 12)))
    answer = await api.client.post("/api/events/count-by/event", json={})
    assert answer.status_code == 422
    assert "more than 10 events" in answer.json()["detail"]
