"""What is open for a key: the state that the evaluator carries from one fact to the next."""

from bisect import insort
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import assert_never
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from upshot.core.events import Event
from upshot.core.limits import EVENTS_KEPT_MAX


class Seen(Struct, frozen=True, array_like=True, gc=False):
    """An event that a window remembers; the event itself only where it may be needed again.

    A Struct, as all of them here: made for every event that is evaluated, and stored as JSON.
    """

    id: UUID
    at: datetime
    received_at: datetime
    opens: bool
    expected: bool
    event: Event | None
    ordinal: int = 0
    """The order of evaluation, where events of the same time may be put together later."""


class Opened(Struct, frozen=True, array_like=True, gc=False):
    """A window opened by an `after` event. `ends_at` None: it stays open as long as it takes."""

    opener: Seen
    ends_at: datetime | None
    decided_at: datetime | None = None
    """When an absence is certain; None where nothing is alarmed."""
    counted: tuple[Seen, ...] = ()
    openers: tuple[Seen, ...] = ()
    """The other `after` events that are newer than all that is counted."""


class AfterWindow(Struct, frozen=True, array_like=True, gc=False, tag="after"):
    """A key of a condition with `after`. All tuples are ordered by time."""

    opened: Opened | None = None
    closed_at: datetime | None = None
    """No older `after` event opens it: the newest that was counted, or the end of an alarm."""
    alarmed: tuple[datetime, datetime] | None = None
    """From when to when the last alarm found too little."""
    early: tuple[Seen, ...] = ()
    """Expected events not counted; the `after` event they belong to may be under way."""
    waiting: tuple[Seen, ...] = ()
    """At or after the end of a window not decided yet, in the order in which they came."""
    ordinal: int = 0
    """Of the event that was evaluated last."""


class Counting(Struct, frozen=True, array_like=True, gc=False, tag="counting"):
    """A key of a reactive condition without `after`, and its quiet time after a firing."""

    counted: tuple[Seen, ...] = ()
    quiet_until: datetime | None = None


class Switch(Struct, frozen=True, array_like=True, gc=False, tag="switch"):
    """A dead man's switch: a key of a proactive condition without `after`."""

    base_at: datetime
    base_received_at: datetime
    """What the silence is counted from until `threshold` events have come."""
    newest: tuple[Seen, ...] = ()
    """The newest `threshold` expected events, by time."""
    silent_since: datetime | None = None
    """The last alarm's time, in the rhythm of the alarms; None: it is not silent."""
    waiting: tuple[Seen, ...] = ()


class ChildFiring(Struct, frozen=True, array_like=True, gc=False):
    """A firing of a composite's child. `ordinal` orders those of the same time by arrival."""

    child: int
    at: datetime
    ordinal: int
    event: Seen | None
    counted: tuple[Seen, ...]


class Collected(Struct, frozen=True, array_like=True, gc=False, tag="collected"):
    """A key of a composite: the firings of its children that are not spent."""

    firings: tuple[ChildFiring, ...] = ()
    fired_at: datetime | None = None
    ordinal: int = 0


Window = AfterWindow | Counting | Switch | Collected

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Window] = msgspec.json.Decoder(Window)

by_time = attrgetter("at", "ordinal")


def with_seen(seen: Sequence[Seen], one: Seen) -> tuple[Seen, ...]:
    """In its place by time; those of the same time in the order of their evaluation."""
    if not seen or by_time(seen[-1]) <= by_time(one):
        return (*seen, one)
    several = list(seen)
    insort(several, one, key=by_time)
    return tuple(several)


def encode_window(
    window: Window, *, keeps_after: bool, keeps_events: bool, keeps_opener: bool
) -> str:
    """A compact JSON text. Events that nothing can reach again are left out.

    `keeps_opener`: the firing's own event may be the one that opened the key.
    """
    kept = kept_part(
        window, keeps_after=keeps_after, keeps_events=keeps_events, keeps_opener=keeps_opener
    )
    return _encoder.encode(kept).decode()


def decode_window(text: str) -> Window:
    """The window that `encode_window` wrote."""
    return _decoder.decode(text)


def kept_part(
    window: Window, *, keeps_after: bool, keeps_events: bool, keeps_opener: bool
) -> Window:
    """The window without the events that can be read again from the log, should they fire."""
    counted = _newest_whole if keeps_events else _bare
    match window:
        case AfterWindow(opened=None, early=()):
            return window
        case AfterWindow(opened=None):
            return replace(window, early=_bare(window.early))
        case AfterWindow(opened=opened):
            assert opened is not None
            openers = _whole if keeps_after or keeps_opener else _bare
            (opener,) = openers((opened.opener,))
            kept = replace(
                opened,
                opener=opener,
                openers=openers(opened.openers),
                counted=counted(opened.counted),
            )
            return replace(window, opened=kept, early=_bare(window.early))
        case Counting():
            return replace(window, counted=counted(window.counted))
        case Switch():
            newest = window.newest
            return replace(window, newest=(*counted(newest[:-1]), *newest[-1:]))
        case Collected():
            return replace(window, firings=_kept_firings(window.firings, keeps_events=keeps_events))
        case _:
            assert_never(window)


def _kept_firings(firings: Sequence[ChildFiring], *, keeps_events: bool) -> tuple[ChildFiring, ...]:
    """Of each child the newest firing keeps its event whole."""
    counted = _newest_whole if keeps_events else _bare
    newest = {firing.child: firing for firing in firings}
    return tuple(
        replace(
            firing,
            event=firing.event
            if firing.event is None or newest[firing.child] is firing
            else _bare((firing.event,))[0],
            counted=counted(firing.counted),
        )
        for firing in firings
    )


def _whole(seen: tuple[Seen, ...]) -> tuple[Seen, ...]:
    return seen


def _bare(seen: tuple[Seen, ...]) -> tuple[Seen, ...]:
    if not seen:
        return seen
    return tuple([one if one.event is None else replace(one, event=None) for one in seen])


def _newest_whole(seen: tuple[Seen, ...]) -> tuple[Seen, ...]:
    return (*_bare(seen[:-EVENTS_KEPT_MAX]), *seen[-EVENTS_KEPT_MAX:])
