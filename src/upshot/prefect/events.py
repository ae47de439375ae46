"""Events as Prefect's client posts them, asks for them, and counts them."""

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from fastapi import Query, Request, Response
from pydantic import Field, ValidationError

from upshot import metrics
from upshot.api.answers import json_answer, no_answer
from upshot.api.bodies import content_type_of, read_body
from upshot.api.paging import decode_cursor, encode_cursor, read_place_in_log
from upshot.api.problems import summary_of
from upshot.api.services import Services, Using, services_of
from upshot.core.errors import Invalid, Malformed, Problem
from upshot.core.events import RESOURCE_ID, Event, event_json
from upshot.core.intake import Ids, NewEvent, Refused, Verdict
from upshot.core.intake.splitting import SPACE, array_items
from upshot.core.limits import (
    BIG_BODY_BYTES_MIN,
    BODY_BYTES_MAX,
    COMMIT_BYTES_MAX,
    EVENT_FILTER_BYTES_MAX,
    EVENTS_COUNTED_MAX,
    EVENTS_FILTERED_MAX,
    LIST_LIMIT_DEFAULT,
    PROBLEMS_LISTED_MAX,
    ROWS_SCANNED_MAX,
)
from upshot.pipeline.ingest import Conflicting, Duplicate, Result
from upshot.prefect.counting import ByText, ByTime, Countable, TimeUnit, length_of
from upshot.prefect.event_filters import FilterSent, Wanted, wanted_of
from upshot.prefect.incoming import read_sent
from upshot.prefect.looking import look, narrowed_of
from upshot.prefect.routing import Sent, new_router
from upshot.storage import event_stream
from upshot.storage.database import Database
from upshot.storage.events import Place

router = new_router()

COUNTED_SINCE: Final = timedelta(days=180)

_ids = Ids(random=os.urandom, clock=time.time_ns)
_accepted = metrics.EVENTS.labels("accepted")
_duplicates = metrics.EVENTS.labels("duplicate")
_rejected = metrics.EVENTS.labels("rejected")


class EventsAsked(Sent):
    filter: FilterSent | None = None
    limit: int = Field(default=LIST_LIMIT_DEFAULT, ge=0)


class CountAsked(Sent):
    filter: FilterSent | None = None
    time_unit: TimeUnit = TimeUnit.DAY
    time_interval: float = 1.0


@dataclass(frozen=True, slots=True)
class _Page:
    """Events in the log's order, how many more or less there are, and where to go on."""

    events: Sequence[Event]
    total: int
    after: Place | None


@router.post("/events")
async def post_events(request: Request) -> Response:
    """Store a list of events. A bad one loses nothing else: the answer says what is wrong with it,
    and the others are stored."""
    services = services_of(request)
    content_type_of(request)
    body = await read_body(request, limit=BODY_BYTES_MAX)
    if not body.lstrip(SPACE).startswith(b"["):
        raise Malformed("The body must be a JSON array of events.")
    if not body.lstrip(SPACE)[1:].lstrip(SPACE).startswith(b"]"):
        await _store(body, services)
    return no_answer()


async def _store(body: bytes, services: Services) -> None:
    now = services.now()
    if len(body) < BIG_BODY_BYTES_MIN:
        verdicts = _read(body, now, _ids)
    else:
        # Ids belong to one thread each.
        own_ids = Ids(random=os.urandom, clock=time.time_ns)
        verdicts = await asyncio.to_thread(_read, body, now, own_ids)
    new = [verdict for verdict in verdicts if isinstance(verdict, NewEvent)]
    results = await services.ingest.append(new) if new else []
    told = iter(results)
    outcomes = [one if isinstance(one, Refused) else next(told) for one in verdicts]
    rejected = [one for one in outcomes if isinstance(one, Refused | Conflicting)]
    duplicates = sum(isinstance(one, Duplicate) for one in outcomes)
    _accepted.inc(len(outcomes) - len(rejected) - duplicates)
    _duplicates.inc(duplicates)
    _rejected.inc(len(rejected))
    if rejected:
        found = list(_problems_of(outcomes))[:PROBLEMS_LISTED_MAX]
        stored = "the others are stored" if len(rejected) < len(outcomes) else "nothing is stored"
        raise Invalid(
            f"{len(rejected):,} of {len(outcomes):,} events are rejected, {stored}. "
            f"{summary_of(found)}",
            found,
        )


def _read(body: bytes, now: datetime, new_id: Ids) -> list[Verdict]:
    return [read_sent(item, now=now, new_id=new_id) for item in array_items(body)]


def _problems_of(outcomes: Iterable[Refused | Result]) -> Iterable[Problem]:
    for index, outcome in enumerate(outcomes):
        match outcome:
            case Refused(problems=problems):
                for problem in problems:
                    yield Problem((index, *problem.loc), problem.msg)
            case Conflicting(reason=reason):
                yield Problem((index, "id"), reason)


@router.post("/events/filter")
async def filter_events(
    request: Request, services: Using, asked: EventsAsked | None = None
) -> Response:
    """The newest events first, or with the order `ASC` the oldest.

    Pages follow the log, which is by receipt; the events of a page are in the order in which they
    occurred. A request looks through a bounded number of events: a page may hold few or none and
    still have a `next_page`. `total` counts those that the first request had before it, which may
    not be all; `distinct` is held within a page.
    """
    asked = asked or EventsAsked()
    limit = min(asked.limit, EVENTS_FILTERED_MAX)
    page = await _page(services.database, wanted_of(asked.filter), limit=limit, first=None)
    return _answer(request, page, asked.filter, limit=limit)


@router.get("/events/filter/next")
async def next_events(
    request: Request,
    services: Using,
    page_token: Annotated[str, Query(alias="page-token", max_length=4 * EVENT_FILTER_BYTES_MAX)],
) -> Response:
    """What follows on a page, by the token in its `next_page`."""
    token = decode_cursor(page_token, _read_token)
    if token is None:
        raise Invalid("The token is missing; take next_page as it was.")
    sent, place, limit, total = token
    page = await _page(services.database, wanted_of(sent), limit=limit, first=place, total=total)
    return _answer(request, page, sent, limit=limit)


def _read_token(parts: Sequence[Any]) -> tuple[FilterSent, Place, int, int]:
    document, place, limit, total = parts
    if type(limit) is not int or type(total) is not int or not 0 < limit <= EVENTS_FILTERED_MAX:
        raise ValueError("no token")
    try:
        sent = FilterSent.model_validate(document)
    except ValidationError as error:
        raise ValueError("no filter") from error
    return sent, read_place_in_log(place), limit, total


def _answer(request: Request, page: _Page, sent: FilterSent | None, *, limit: int) -> Response:
    following = None
    if page.after is not None and limit > 0:
        document = sent.model_dump(mode="json", exclude_none=True) if sent else {}
        if len(msgspec.json.encode(document)) > EVENT_FILTER_BYTES_MAX:
            raise Invalid(
                f"The filter has more than {EVENT_FILTER_BYTES_MAX:,} bytes, which do not fit into "
                "a link to the next page. Ask for less."
            )
        token = encode_cursor(document, page.after, limit, page.total)
        here = request.url.replace(query="").path.removesuffix("/next")
        following = str(request.url.replace(path=f"{here}/next", query=f"page-token={token}"))
    wanted = wanted_of(sent)
    events = sorted(page.events, key=_occurred_at, reverse=not wanted.ascending)
    return json_answer(
        {
            "events": [msgspec.Raw(event_json(event).encode()) for event in events],
            "total": page.total,
            "next_page": following,
        }
    )


def _occurred_at(event: Event) -> datetime:
    return event.occurred_at


async def _page(
    database: Database, wanted: Wanted, *, limit: int, first: Place | None, total: int | None = None
) -> _Page:
    if wanted.ids:
        return await _page_of_ids(database, wanted, limit=limit, first=first)
    async with database.driver() as conn:
        within = await event_stream.reach(
            conn,
            narrowed_of(wanted),
            ascending=wanted.ascending,
            first=first,
            rows_max=ROWS_SCANNED_MAX,
        )
    events: list[Event] = []
    after, counted, size, is_full = first, 0, 0, False
    seen: set[str] = set()
    async for found in look(database, wanted, within):
        for place, event in found:
            if wanted.distinct:
                if event.resource[RESOURCE_ID] in seen:
                    continue
                seen.add(event.resource[RESOURCE_ID])
            counted += 1
            if counted > limit or size > COMMIT_BYTES_MAX:
                is_full = True
                continue
            events.append(event)
            size += len(event.payload)
            after = place
        if is_full and total is not None:
            break
    after = after if is_full else within.last if within.is_cut else None
    return _Page(events, counted if total is None else total, after)


async def _page_of_ids(
    database: Database, wanted: Wanted, *, limit: int, first: Place | None
) -> _Page:
    async with database.driver() as conn:
        found = await event_stream.load(conn, wanted.ids)
    placed = [(place, event) for place, event in found if wanted.includes(event)]
    placed.sort(key=lambda one: one[0], reverse=not wanted.ascending)
    if first is not None:
        rest = [one for one in placed if (one[0] > first if wanted.ascending else one[0] < first)]
    else:
        rest = placed
    shown = rest[:limit]
    after = shown[-1][0] if len(rest) > limit and shown else None
    return _Page([event for _, event in shown], len(placed), after)


@router.get("/events/count-by/{countable}")
@router.post("/events/count-by/{countable}")
async def count_events(
    countable: Countable, services: Using, asked: CountAsked | None = None
) -> Response:
    """How many events there were in each span of time, or of each name or resource."""
    asked = asked or CountAsked()
    wanted = wanted_of(asked.filter)
    now = services.now()
    until = min(wanted.until or now, now)
    since = min(wanted.since or now - COUNTED_SINCE, until)
    counts: ByTime | ByText
    if countable is Countable.DAY:
        counts = ByTime(since=since, until=until, length=length_of(TimeUnit.DAY, 1))
    elif countable is Countable.TIME:
        length = length_of(asked.time_unit, asked.time_interval)
        counts = ByTime(since=since, until=until, length=length)
    else:
        counts = ByText(countable)
    wanted = replace(wanted, since=since, ascending=False)
    async with services.database.driver() as conn:
        within = await event_stream.reach(
            conn,
            narrowed_of(wanted),
            ascending=False,
            first=None,
            rows_max=EVENTS_COUNTED_MAX,
        )
    if within.is_cut:
        raise Invalid(
            f"There are more than {EVENTS_COUNTED_MAX:,} events to look through. Count less time, "
            "or the events of one resource."
        )
    async for found in look(services.database, wanted, within):
        counts.add(event for _, event in found)
    return json_answer(counts.shown())
