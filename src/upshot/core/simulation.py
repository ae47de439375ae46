"""Triggers against a timeline of events, with a clock of its own: no server, no database."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from pydantic import ValidationError

from upshot.core.contexts import context_of
from upshot.core.errors import Invalid, Problem, UpshotError
from upshot.core.events import OWN_EVENT_PREFIX, RESOURCE_ID, Event
from upshot.core.following import Following, Turn
from upshot.core.index import TriggerIndex
from upshot.core.intake import NewEvent, Refused, read_json
from upshot.core.intake.sent import aware
from upshot.core.language import (
    AnyTrigger,
    compile_trigger,
    compiled_parameters,
    loc_without_kinds,
    read_trigger,
    same_condition,
)
from upshot.core.runs import Firing, run_error, run_id_of
from upshot.core.templates import Parameters, event_view
from upshot.core.timeline import Timeline
from upshot.core.triggers import Trigger

_INSTANT: Final = timedelta(microseconds=1)
_CHANGES: Final = ("put", "delete", "enable", "disable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A firing. `parameters` are those of its first run, if it makes one. None: they could not be
    rendered, `error` says why; or, where a trigger has several actions, which of them fails.
    """

    trigger: str
    at: datetime
    labels: dict[str, str]
    event: str | None = None
    """The name of the event that fired it, or opened it."""
    event_id: UUID | None
    event_ids: tuple[UUID, ...]
    parameters: dict[str, Any] | None
    error: str | None = None


def simulate(
    triggers: Iterable[Mapping[str, Any]], lines: Iterable[Mapping[str, Any]]
) -> list[Simulated]:
    """What the triggers fire over these lines, in order.

    Raises:
        Invalid: a line, or a trigger, breaks a rule; the message says which.
    """
    simulation = Simulation(triggers)
    firings: list[Simulated] = []
    for number, line in enumerate(lines, start=1):
        try:
            firings += simulation.play(line)
        except UpshotError as error:
            raise Invalid(f"Line {number}: {error.message}", error.problems) from None
    return firings


class Simulation:
    """Plays lines: events, `{"now": time}`, and changes of triggers by `put`, `delete`, `enable`
    and `disable`. The first line with a time sets the clock, and the triggers are there from then.
    """

    def __init__(self, triggers: Iterable[Mapping[str, Any]]) -> None:
        self._timeline = Timeline(TriggerIndex())
        self._written: dict[str, AnyTrigger] = {}
        self._compiled: dict[str, Trigger] = {}
        self._parameters: dict[UUID, list[Parameters]] = {}
        self._since: dict[int, datetime] = {}
        self._following = Following()
        self._waiting_events: dict[UUID, Event] = {}
        self._evaluated: set[UUID] = set()
        self._clock: datetime | None = None
        self._lines = 0
        self._waiting = [self._read(document) for document in triggers]

    def play(self, line: Mapping[str, Any]) -> Iterator[Simulated]:
        """What fires because of this line.

        Raises:
            UpshotError: the line breaks a rule.
        """
        self._lines += 1
        try:
            self._play(line)
        except OverflowError:
            raise Invalid("no calendar reaches as far as the windows that this opens.") from None
        firings, self._timeline.firings = self._timeline.firings, []
        self._timeline.changed.clear()
        self._timeline.late.clear()
        for firing in firings:
            yield _simulated(firing, self._parameters[firing.trigger.id])
        for aside in self._timeline.set_aside:
            name = aside.trigger.name if aside.trigger else None
            raise Invalid(f"trigger {name!r}: {aside.reason}")

    def _play(self, line: Mapping[str, Any]) -> None:
        if "event" in line:
            self._play_event(line)
            return
        known = [name for name in ("now", *_CHANGES) if name in line]
        if len(known) != 1 or len(line) != 1:
            raise Invalid(
                "is neither an event nor one of "
                '{"now": time}, {"put": {trigger}}, {"delete": name}, {"enable": name}, '
                '{"disable": name}.'
            )
        value = line[known[0]]
        if known[0] == "now":
            self._set_clock(_time(value, "now"))
            assert self._clock is not None
            self._evaluate(self._following.overdue(before=self._clock + _INSTANT))
            self._timeline.pass_time(self._clock)
            return
        if self._clock is None:
            raise Invalid('there is no clock yet; begin with {"now": "<time>"}.')
        match known[0]:
            case "put":
                written = self._read(value)
                if written.name is None:
                    raise Invalid("the trigger has no name.")
                self._put(written, self._clock)
            case "delete":
                name = self._known(value)
                self._drop(self._compiled.pop(name))
                del self._written[name]
            case "enable" | "disable" as change:
                written = self._written[self._known(value)]
                enabled = change == "enable"
                self._put(written.model_copy(update={"enabled": enabled}), self._clock)

    def _play_event(self, line: Mapping[str, Any]) -> None:
        fields = dict(line)
        arrival = fields.pop("received", None) or fields.get("occurred")
        if arrival is None and self._clock is None:
            raise Invalid('has neither "received" nor "occurred", and there is no clock yet.')
        self._set_clock(self._clock if arrival is None else _time(arrival, "received"))
        assert self._clock is not None
        event = self._read_event(fields, self._clock)
        self._evaluate(self._following.overdue(before=self._clock))
        self._timeline.pass_time(self._clock - _INSTANT)
        if event.id in self._evaluated or event.id in self._waiting_events:
            return
        self._waiting_events[event.id] = event
        follows = event.follows
        self._evaluate(
            self._following.arrive(
                event.id,
                follows=follows,
                received_at=event.received_at,
                is_known=follows in self._evaluated,
            )
        )

    def _set_clock(self, at: datetime | None) -> None:
        """The clock never goes back."""
        is_first = self._clock is None
        if at is not None and (self._clock is None or at > self._clock):
            self._clock = at
        if is_first and self._clock is not None:
            for written in self._waiting:
                self._put(written, self._clock)

    def _evaluate(self, turns: Iterable[Turn]) -> None:
        for turn in turns:
            event = self._waiting_events.pop(turn.id)
            concerns = [
                concern
                for concern in self._timeline.concerns(event)
                if event.received_at >= self._since[concern.trigger.number]
            ]
            self._timeline.take(concerns, now=turn.now)
            self._evaluated.add(event.id)

    def _read_event(self, fields: dict[str, Any], now: datetime) -> Event:
        name = fields.get("event")
        is_own = isinstance(name, str) and name.startswith(OWN_EVENT_PREFIX)
        if is_own:
            fields["event"] = str(name).removeprefix(OWN_EVENT_PREFIX)
        try:
            body = json.dumps(fields).encode()
        except ValueError as error:
            raise Invalid(f"is no JSON: {error}") from None
        (verdict,) = read_json(body, now=now, new_id=self._new_id).verdicts
        if isinstance(verdict, Refused):
            said = "; ".join(f"{_path(one.loc)}: {one.msg}" for one in verdict.problems)
            raise Invalid(said, verdict.problems)
        return _event(verdict, received_at=now, name=str(name) if is_own else verdict.name)

    def _new_id(self) -> UUID:
        return run_id_of("line", str(self._lines))

    def _read(self, document: Any) -> AnyTrigger:
        if not isinstance(document, Mapping):
            raise Invalid("A trigger must be an object.")
        try:
            written = read_trigger(document)
            compiled_parameters(written)
            return written
        except (ValueError, Invalid) as error:
            problems = _problems(error)
            said = "; ".join(f"{_path(one.loc)}: {one.msg}" for one in problems)
            raise Invalid(f"Trigger {document.get('name')!r}: {said}", problems) from None

    def _put(self, written: AnyTrigger, at: datetime) -> None:
        name = written.name or ""
        before = self._written.get(name)
        if before is not None and before == written:
            return
        stored = self._compiled.get(name)
        number = stored.number if stored else len(self._since) + 1
        trigger = compile_trigger(
            written.model_dump(mode="json"),
            trigger_id=run_id_of("trigger", str(number)),
            number=number,
            version=stored.version + 1 if stored else 1,
        )
        if stored is not None and before is not None and not same_condition(before, written):
            self._timeline.forget(stored)
        self._written[name], self._compiled[name] = written, trigger
        self._parameters[trigger.id] = compiled_parameters(written)
        if not written.enabled:
            self._timeline.index.remove(trigger.id)
            self._timeline.forget(trigger, only_proactive=True)
            self._since.setdefault(number, at)
            return
        self._timeline.index.put(trigger)
        if before is None or not before.enabled:
            self._since[number] = at
        self._timeline.begin(trigger, at)

    def _drop(self, trigger: Trigger) -> None:
        self._timeline.index.remove(trigger.id)
        self._timeline.forget(trigger)

    def _known(self, name: Any) -> str:
        if not isinstance(name, str) or name not in self._written:
            raise Invalid(f"there is no trigger {name!r}.")
        return name


def _simulated(firing: Firing, sources: Sequence[Parameters]) -> Simulated:
    fire, trigger = firing.fire, firing.trigger
    rendered: list[dict[str, Any] | None] = []
    errors = []
    for (place, run), source in zip(trigger.runs, sources, strict=True):
        context = context_of(firing, deployment=run.deployment, of_event=event_view)
        try:
            rendered.append(source.render(context))
        except UpshotError as refused:
            rendered.append(None)
            errors.append(run_error(trigger, place, refused.message))
    return Simulated(
        trigger=firing.trigger.name,
        at=firing.at,
        labels=firing.labels,
        event=None if fire.event is None or fire.event.event is None else fire.event.event.name,
        event_id=None if fire.event is None else fire.event.id,
        event_ids=tuple(seen.id for seen in fire.counted),
        parameters=rendered[0] if rendered else None,
        error=errors[0] if errors else None,
    )


def _event(new: NewEvent, *, received_at: datetime, name: str) -> Event:
    labels = {} if new.labels_json is None else msgspec.json.decode(new.labels_json)
    related = () if new.related_json is None else tuple(msgspec.json.decode(new.related_json))
    return Event(
        id=new.id,
        name=name,
        resource={RESOURCE_ID: new.resource_id, **labels},
        related=related,
        payload=new.payload_json or "{}",
        occurred_at=new.occurred,
        received_at=received_at,
        follows=new.follows,
    )


def _time(value: Any, what: str) -> datetime:
    try:
        return aware(msgspec.convert(value, datetime))
    except msgspec.ValidationError:
        raise Invalid(
            f"{what}: {value!r} is no time such as '2026-01-31T10:00:00Z'.",
            [Problem((what,), "must be a time")],
        ) from None


def _problems(error: ValueError | Invalid) -> list[Problem]:
    if isinstance(error, Invalid):
        return list(error.problems)
    if isinstance(error, ValidationError):
        return [
            Problem(loc_without_kinds(one["loc"]), one["msg"].removeprefix("Value error, "))
            for one in error.errors(include_url=False)
        ]
    return [Problem((), str(error))]


def _path(loc: Sequence[str | int]) -> str:
    return ".".join(map(str, loc)) or "it"
