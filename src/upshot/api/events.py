"""Events: posted, listed, shown with what they led to."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from fastapi import Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from upshot import metrics
from upshot.api.answers import Listed, json_answer
from upshot.api.auth import scope_of
from upshot.api.bodies import JSON, content_type_of, read_body, refuse_compressed
from upshot.api.paging import (
    DEFAULT,
    CursorText,
    Limit,
    QueryText,
    Since,
    Until,
    decode_cursor,
    encode_cursor,
    read_place_in_log,
)
from upshot.api.problems import BODY, ProblemItem, problem_answer, problems
from upshot.api.routing import new_router
from upshot.api.services import Services, Using, services_of
from upshot.core.errors import Invalid, NotFound, Problem, Unsupported
from upshot.core.events import Event, event_json
from upshot.core.intake import (
    Ids,
    NewEvent,
    Reading,
    Verdict,
    read_binary_cloudevent,
    read_cloudevent,
    read_cloudevents,
    read_json,
    read_ndjson,
)
from upshot.core.limits import (
    BIG_BODY_BYTES_MIN,
    BODY_BYTES_MAX,
    EVALUATED_WAIT_MAX,
    EVENT_NAME_CHARS_MAX,
    FILTER_PATTERNS_MAX,
    LABEL_VALUE_CHARS_MAX,
    ROWS_SHOWN_WITH_ONE_MAX,
)
from upshot.core.patterns import parse_pattern, parse_patterns
from upshot.pipeline.ingest import STORED, Conflicting, Duplicate, Result, Stored
from upshot.storage import events, runs

NDJSON: Final = "application/x-ndjson"
CLOUDEVENT: Final = "application/cloudevents+json"
CLOUDEVENTS: Final = "application/cloudevents-batch+json"

router = new_router("events")

PATH: Final = "/v1/events"
NEEDED_SCOPE: Final = scope_of(method="POST", path=PATH)

_ids = Ids(random=os.urandom, clock=time.time_ns)
_accepted = metrics.EVENTS.labels("accepted")
_duplicates = metrics.EVENTS.labels("duplicate")
_rejected = metrics.EVENTS.labels("rejected")


class EventPosted(BaseModel):
    """An event, as an app posts it."""

    event: str = Field(
        min_length=1,
        max_length=EVENT_NAME_CHARS_MAX,
        description="The event's name. Names that begin with `upshot.` are Upshot's own.",
    )
    resource: dict[str, str] = Field(
        description="Labels of what it happened to, with a non-empty `prefect.resource.id` "
        "(short: `id`)."
    )
    related: list[dict[str, str]] | None = Field(
        default=None, description="Labels of what else took part, each also with a role."
    )
    payload: dict[str, Any] | None = Field(default=None, description="Any JSON object.")
    occurred: datetime | None = Field(default=None, description="When it happened; default: now.")
    id: UUID | None = Field(
        default=None, description="To post it again without harm; default: made by the server."
    )
    follows: UUID | None = Field(default=None, description="The event that came before this one.")


class CloudEventPosted(BaseModel):
    """A CloudEvent 1.0. What it has beside these are extensions; they become labels."""

    model_config = ConfigDict(extra="allow")

    specversion: str = Field(examples=["1.0"])
    type: str = Field(
        min_length=1, max_length=EVENT_NAME_CHARS_MAX, description="Becomes the event's name."
    )
    source: str = Field(min_length=1, description="Becomes a label.")
    id: str = Field(
        min_length=1,
        description="Kept when it is a UUID. Otherwise the event's id is the UUID of version 5 "
        "whose name it is, in the namespace that is the source's own UUID of version 5 for URLs; "
        "the label `cloudevents.id` keeps it.",
    )
    subject: str | None = Field(
        default=None,
        min_length=1,
        description="Becomes the `prefect.resource.id`; without it the source does.",
    )
    time: datetime | None = Field(default=None, description="When it occurred; default: now.")
    datacontenttype: str | None = Field(default=None, description="Becomes a label.")
    dataschema: str | None = Field(default=None, description="Becomes a label.")
    data: Any = Field(
        default=None, description='An object is the payload; anything else is its field "data".'
    )
    data_base64: str | None = Field(
        default=None, description='Is kept as the payload\'s field "data_base64".'
    )


class Posted(BaseModel):
    """What became of one event of a request."""

    id: str | None = Field(description="The event's id; null where it could not be read.")
    status: Literal["accepted", "duplicate", "rejected"]
    error: "PostedError | None" = Field(default=None, description="Why it was rejected.")


class PostedError(BaseModel):
    detail: str
    errors: list[ProblemItem]


class EventsPosted(BaseModel):
    """What became of the events of a request, in their order."""

    accepted: int
    duplicates: int
    rejected: int
    results: list[Posted]
    evaluated: bool | None = Field(
        default=None, description="With `?wait=evaluated`: whether they were, within 30 s."
    )


class EventShown(BaseModel):
    """An event, as it is stored."""

    id: UUID
    event: str
    resource: dict[str, str]
    related: list[dict[str, str]]
    payload: dict[str, Any]
    occurred: AwareDatetime
    received: AwareDatetime
    follows: UUID | None


class EventRun(BaseModel):
    """A run that an event led to."""

    id: UUID
    trigger: str | None
    deployment: str
    state: str


class EventError(BaseModel):
    """Why an event was set aside for a trigger; a null trigger is all of them."""

    trigger: str | None
    error: str


class EventInFull(EventShown):
    """An event, and what it led to."""

    runs: list[EventRun]
    errors: list[EventError]


_ORDER_CREATED: Final = {
    "event": "order.created",
    "resource": {"prefect.resource.id": "123"},
    "payload": {"total": 99.5},
}
_CLOUDEVENT: Final = {
    "specversion": "1.0",
    "type": "order.created",
    "source": "/shop",
    "subject": "123",
    "id": "A234-1234-1234",
    "data": {"total": 99.5},
}
_CE: Final = "ce-"
_CE_MARKS: Final = ("ce-specversion", "ce-id", "ce-source", "ce-type")
_REQUEST_DOCUMENTED: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "wait",
            "in": "query",
            "required": False,
            "schema": {"type": "string", "enum": ["evaluated"]},
            "description": "Answer once the events are evaluated.",
        },
        *(
            {
                "name": name,
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "Of a CloudEvent in binary mode, whose data is the body.",
            }
            for name in (*_CE_MARKS, "ce-subject", "ce-time")
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/EventPosted"},
                        {
                            "type": "array",
                            "items": {"$ref": "#/components/schemas/EventPosted"},
                            "minItems": 1,
                        },
                    ]
                },
                "examples": {
                    "one": {"summary": "One event", "value": _ORDER_CREATED},
                    "several": {
                        "summary": "An array",
                        "value": [
                            _ORDER_CREATED,
                            {"event": "order.complete", "resource": {"id": "123"}},
                        ],
                    },
                },
            },
            NDJSON: {
                "schema": {"type": "string", "description": "One event a line."},
                "example": '{"event": "order.created", "resource": {"id": "123"}}\n',
            },
            CLOUDEVENT: {
                "schema": {"$ref": "#/components/schemas/CloudEventPosted"},
                "example": _CLOUDEVENT,
            },
            CLOUDEVENTS: {
                "schema": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/CloudEventPosted"},
                    "minItems": 1,
                },
                "example": [_CLOUDEVENT],
            },
        },
    },
}


@router.post(
    PATH,
    summary="Post events",
    status_code=201,
    response_model=EventsPosted,
    responses={
        201: {"description": "Every event is stored, or was before."},
        207: {"description": "Some events are rejected; the others are.", "model": EventsPosted},
        **problems(*BODY),
    },
    openapi_extra=_REQUEST_DOCUMENTED,
)
async def post_events(request: Request) -> Response:
    """Store one event, an array of them, one a line (NDJSON), or CloudEvents 1.0: structured, in
    batches, or binary, with `ce-` headers.

    A 2xx answer comes after they are committed. One bad event does not keep its neighbours from
    being stored: it is `rejected`, and its `error` says why. When none is valid the answer is 422,
    with the same `results`.
    """
    services, waits = services_of(request), _waits(request)
    read = _reader_for(request)
    reading = await _read(read, await read_body(request, limit=BODY_BYTES_MAX), services.now())
    new = [verdict for verdict in reading.verdicts if isinstance(verdict, NewEvent)]
    results = await services.ingest.append(new) if new else []
    answer = _Answer(single=reading.single)
    if len(new) == len(reading.verdicts) and results.count(STORED) == len(new):
        answer.accept(new)
    else:
        answer.tell_each(reading.verdicts, results)
    if waits:
        answer.evaluated = not answer.kept or await services.ingest.evaluated(
            answer.kept, EVALUATED_WAIT_MAX
        )
    return answer.to_response()


def _waits(request: Request) -> bool:
    """Read here and not by FastAPI, whose reading of parameters costs more than the event's."""
    wait = request.query_params.get("wait")
    if wait not in (None, "evaluated"):
        message = "Can only be 'evaluated'."
        raise Invalid(f"wait: {message}", [Problem(("query", "wait"), message)])
    return wait is not None


_Reader = Callable[..., Reading]

_STRUCTURED: Final = "application/cloudevents"
_READERS: Final[dict[str, _Reader]] = {
    JSON: read_json,
    NDJSON: read_ndjson,
    CLOUDEVENT: read_cloudevent,
    CLOUDEVENTS: read_cloudevents,
}


def _reader_for(request: Request) -> _Reader:
    said = request.headers.get("content-type")
    is_structured = said is not None and said.lstrip().lower().startswith(_STRUCTURED)
    if not is_structured and any(mark in request.headers for mark in _CE_MARKS):
        refuse_compressed(request)
        headers = [
            (name.removeprefix(_CE), value)
            for name, value in request.headers.items()
            if name.startswith(_CE)
        ]
        return partial(read_binary_cloudevent, headers=headers, content_type=said)
    content_type = content_type_of(request)
    if content_type not in _READERS:
        known = f"{', '.join(_READERS)}, or as CloudEvents with `ce-` headers"
        raise Unsupported(f"Events are posted as {known}, not as {content_type[:100]}.")
    return _READERS[content_type]


async def _read(read: _Reader, body: bytes, now: datetime) -> Reading:
    if len(body) < BIG_BODY_BYTES_MIN:
        return read(body, now=now, new_id=_ids)
    # A big body may take a while, above all a bad one. Ids belong to one thread each.
    own_ids = Ids(random=os.urandom, clock=time.time_ns)
    return await asyncio.to_thread(read, body, now=now, new_id=own_ids)


class _Answer:
    """The answer to a request with events, as their results come."""

    def __init__(self, *, single: bool) -> None:
        self._single = single
        self._results: list[dict[str, Any]] = []
        self._problems: list[Problem] = []
        self._accepted = 0
        self._duplicates = 0
        self._rejected = 0
        self.kept: list[UUID] = []
        self.evaluated: bool | None = None

    def accept(self, events: Sequence[NewEvent]) -> None:
        """All of them were stored: nearly always, so that it is told in one go."""
        self._accepted += len(events)
        self.kept += [event.id for event in events]
        self._results += [{"id": event_id, "status": "accepted"} for event_id in self.kept]

    def tell_each(self, verdicts: Iterable[Verdict], results: Iterable[Result]) -> None:
        """`results` are those of the verdicts that are events."""
        told = iter(results)
        for index, verdict in enumerate(verdicts):
            if isinstance(verdict, NewEvent):
                self._tell(index, verdict, next(told))
            else:
                self._refuse(index, verdict.id, verdict.problems)

    def _tell(self, index: int, event: NewEvent, result: Result) -> None:
        match result:
            case Stored():
                self._accepted += 1
                status = "accepted"
            case Duplicate():
                self._duplicates += 1
                status = "duplicate"
            case Conflicting(reason=reason):
                self._refuse(index, str(event.id), (Problem(("id",), reason),))
                return
        self.kept.append(event.id)
        self._results.append({"id": event.id, "status": status})

    def _refuse(self, index: int, event_id: str | None, problems: tuple[Problem, ...]) -> None:
        self._rejected += 1
        if not self._single:
            problems = tuple(Problem((index, *one.loc), one.msg) for one in problems)
        self._problems += problems
        error = {
            "detail": _detail(problems),
            "errors": [{"loc": problem.loc, "msg": problem.msg} for problem in problems],
        }
        self._results.append({"id": event_id, "status": "rejected", "error": error})

    def to_response(self) -> Response:
        _accepted.inc(self._accepted)
        _duplicates.inc(self._duplicates)
        _rejected.inc(self._rejected)
        document: dict[str, Any] = {
            "accepted": self._accepted,
            "duplicates": self._duplicates,
            "rejected": self._rejected,
            "results": self._results,
        }
        if self.evaluated is not None:
            document["evaluated"] = self.evaluated
        if self._rejected == len(self._results):
            detail = _detail(self._problems) if self._single else "No event is valid."
            return problem_answer(422, detail, problems=self._problems, more=document)
        return json_answer(document, 207 if self._rejected else 201)


def _detail(problems: tuple[Problem, ...] | list[Problem]) -> str:
    where = ".".join(map(str, problems[0].loc))
    return f"{where}: {problems[0].msg}" if where else problems[0].msg


@router.get(
    "/v1/events",
    summary="List events",
    response_model=Listed[EventShown],
    responses=problems(),
)
async def list_events(
    services: Using,
    event: Annotated[
        list[QueryText],
        Query(
            max_length=FILTER_PATTERNS_MAX,
            description="Patterns of the name: `*` is any run of characters, `!p` excludes.",
        ),
    ] = [],  # noqa: B006
    resource: Annotated[
        QueryText | None,
        Query(
            min_length=1,
            max_length=LABEL_VALUE_CHARS_MAX,
            description="The `prefect.resource.id`, or a pattern of it.",
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = DEFAULT,
    cursor: CursorText = None,
) -> Response:
    """The newest first; times are those of receipt.

    A request looks through a bounded number of events: a page may hold few or none and still have
    a `next_cursor`, which goes on. Patterns leave out Upshot's own events (`upshot.*`) unless they
    begin with `upshot.`.
    """
    for index, pattern in enumerate(event):
        if not pattern or len(pattern) > EVENT_NAME_CHARS_MAX:
            loc = ("query", "event", index)
            message = f"A pattern has 1 to {EVENT_NAME_CHARS_MAX} characters."
            raise Invalid(message, [Problem(loc, message)])
    wanted = events.EventFilter(
        names=parse_patterns(event) if event else None,
        resource=parse_pattern(resource) if resource is not None else None,
        since=since,
        until=until,
    )
    before = decode_cursor(cursor, read_place_in_log)
    async with services.database.begin() as conn:
        page = await events.page(conn, wanted, before=before, limit=limit)
    return json_answer(
        {
            "items": [msgspec.Raw(event_json(one).encode()) for one in page.events],
            "next_cursor": encode_cursor(*page.before) if page.before else None,
        }
    )


@router.get(
    "/v1/events/{event_id}",
    summary="Show an event",
    response_model=EventInFull,
    responses=problems(404),
)
async def show_event(event_id: UUID, services: Using) -> Response:
    """One event, with the runs it led to and what kept it from being evaluated, if anything did."""
    event = await _load(services, event_id)
    async with services.database.begin() as conn:
        fired = await runs.caused_by(conn, event_id, limit=ROWS_SHOWN_WITH_ONE_MAX)
        errors = await events.errors_of(conn, event_id, limit=ROWS_SHOWN_WITH_ONE_MAX)
    document = msgspec.json.decode(event_json(event), type=dict[str, msgspec.Raw])
    return json_answer(
        {
            **document,
            "runs": [
                {
                    "id": run.id,
                    "trigger": run.trigger,
                    "deployment": run.deployment,
                    "state": run.state,
                }
                for run in fired
            ],
            "errors": [{"trigger": one.trigger, "error": one.error} for one in errors],
        }
    )


async def _load(services: Services, event_id: UUID) -> Event:
    async with services.database.begin() as conn:
        found = await events.load(conn, [event_id])
    if event_id not in found:
        raise NotFound(f"There is no event {event_id}; it may be past its retention.")
    return found[event_id]
