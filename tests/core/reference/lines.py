"""Timelines and triggers written shortly, and firings read back in the same words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

Line = dict[str, Any]

FIRST_DAY = datetime(2026, 5, 4, tzinfo=UTC)


def at(
    when: str,
    name: str,
    *,
    id: str | None = None,
    key: str = "1",
    received: str | None = None,
    follows: str | None = None,
    labels: Mapping[str, str] | None = None,
    **fields: Any,
) -> Line:
    """An event that happened at `10:00:05` (or `+7d 10:00:05`) and came then, or at `received`."""
    line: Line = {"event": name, "occurred": time(when), "resource": {"id": key, **(labels or {})}}
    if received is not None:
        line["received"] = time(received)
    if id is not None:
        line["id"] = str(_uuid(id))
    if follows is not None:
        line["follows"] = str(_uuid(follows))
    return {**line, **fields}


def now(when: str) -> Line:
    return {"now": time(when)}


def put(trigger: Line) -> Line:
    return {"put": trigger}


def disable(name: str = "t") -> Line:
    return {"disable": name}


def enable(name: str = "t") -> Line:
    return {"enable": name}


def delete(name: str = "t") -> Line:
    return {"delete": name}


def trigger(**fields: Any) -> Line:
    return {"name": "t", "deployment": "d", **fields}


def compound(*children: Line, **fields: Any) -> Line:
    return {**trigger(type="compound", require="all", triggers=list(children)), **fields}


def sequence(*children: Line, **fields: Any) -> Line:
    return trigger(type="sequence", triggers=list(children), **fields)


class FiredLike(Protocol):
    @property
    def trigger(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def event_id(self) -> UUID | None: ...
    @property
    def event_ids(self) -> Sequence[UUID]: ...


@dataclass(frozen=True, slots=True)
class Story:
    """What was fired, one entry for each firing, with times and ids as they were written."""

    fired: Sequence[FiredLike]

    @property
    def at(self) -> list[str]:
        return [_when(firing.at) for firing in self.fired]

    @property
    def triggers(self) -> list[str]:
        return [firing.trigger for firing in self.fired]

    @property
    def keys(self) -> list[tuple[str, ...]]:
        return [tuple(firing.labels.values()) for firing in self.fired]

    @property
    def events(self) -> list[str | None]:
        return [_name(firing.event_id) if firing.event_id else None for firing in self.fired]

    @property
    def counted(self) -> list[str]:
        """The ids of those counted, one after the other: `ab`."""
        return ["".join(map(_name, firing.event_ids)) for firing in self.fired]


class Engine(Protocol):
    """`simulate` of the core, or the model."""

    def __call__(
        self, triggers: Sequence[Line], lines: Sequence[Line], /
    ) -> Sequence[FiredLike]: ...


def story(engine: Engine, triggers: Line | Sequence[Line], lines: Iterable[Line]) -> Story:
    listed = [triggers] if isinstance(triggers, dict) else list(triggers)
    return Story(engine(listed, list(lines)))


def time(when: str) -> str:
    """`+7d 10:00` is ten o'clock a week after the first day."""
    days, _, clock = when.rpartition(" ")
    day: date = (FIRST_DAY + timedelta(days=int(days.strip("+d") or 0))).date()
    return f"{day}T{clock}{':00' * (2 - clock.count(':'))}Z"


def _when(moment: datetime) -> str:
    moment = moment.astimezone(UTC)
    days = (moment.date() - FIRST_DAY.date()).days
    return (f"+{days}d " if days else "") + moment.strftime("%H:%M:%S")


def _uuid(name: str) -> UUID:
    return UUID(bytes=name.encode().rjust(16, b"\0"))


def _name(event_id: UUID) -> str:
    return event_id.bytes.lstrip(b"\0").decode()
