"""`follows`: an event waits for the one before it, but not for ever."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush
from uuid import UUID

from upshot.core.limits import HELD_EVENTS_MAX, HELD_FOR_MAX


@dataclass(frozen=True, slots=True)
class Held:
    """An event that waits for another to be evaluated, and until when at most."""

    id: UUID
    follows: UUID
    until: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """An event whose turn it is to be evaluated, and the clock then."""

    id: UUID
    now: datetime


class Following:
    """The events that are held, in memory; whoever uses it knows what has been evaluated."""

    def __init__(self, held: Iterable[Held] = ()) -> None:
        self._held: dict[UUID, Held] = {}
        self._by_follows: dict[UUID, list[Held]] = {}
        self._by_until: list[tuple[datetime, UUID]] = []
        self._newly_held: dict[UUID, Held] = {}
        self._newly_released: list[UUID] = []
        for one in held:
            self.hold(one)

    def __contains__(self, event_id: UUID) -> bool:
        return event_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def arrive(
        self, event_id: UUID, *, follows: UUID | None, received_at: datetime, is_known: bool
    ) -> Iterator[Turn]:
        """Whose turn it is when an event comes: whoever waited too long, it, who waited for it.

        `is_known`: the event that it follows has been evaluated.
        """
        for turn in self.overdue(before=received_at):
            is_known = is_known or turn.id == follows
            yield turn
        must_wait = follows is not None and follows != event_id and not is_known
        if must_wait and follows is not None and len(self._held) < HELD_EVENTS_MAX:
            held = Held(event_id, follows, received_at + HELD_FOR_MAX)
            self.hold(held)
            self._newly_held[event_id] = held
            return
        yield Turn(event_id, received_at)
        yield from self._released_by(event_id, received_at)

    def is_followed(self, event_id: UUID) -> bool:
        return event_id in self._by_follows

    def newly_held(self) -> list[Held]:
        """Those held since this was last asked, and still so."""
        held = list(self._newly_held.values())
        self._newly_held.clear()
        return held

    def newly_released(self) -> list[UUID]:
        """Those released since this was last asked that had been told as held before."""
        released, self._newly_released = self._newly_released, []
        return released

    def hold(self, held: Held) -> None:
        self._held[held.id] = held
        self._by_follows.setdefault(held.follows, []).append(held)
        heappush(self._by_until, (held.until, held.id))

    def overdue(self, *, before: datetime) -> Iterator[Turn]:
        """Those who have waited as long as they may, each at its time, and who waits for them."""
        while self._by_until and self._by_until[0][0] < before:
            until, event_id = heappop(self._by_until)
            held = self._held.pop(event_id, None)
            if held is None:
                continue
            several = self._by_follows[held.follows]
            several.remove(held)
            if not several:
                del self._by_follows[held.follows]
            self._forget(event_id)
            yield Turn(event_id, until)
            yield from self._released_by(event_id, until)

    def _released_by(self, event_id: UUID, now: datetime) -> Iterator[Turn]:
        """A chain of any length, in its order."""
        ahead = deque(self._by_follows.pop(event_id, ()))
        while ahead:
            held = ahead.popleft()
            del self._held[held.id]
            self._forget(held.id)
            yield Turn(held.id, now)
            ahead.extendleft(reversed(self._by_follows.pop(held.id, [])))

    def _forget(self, event_id: UUID) -> None:
        if self._newly_held.pop(event_id, None) is None:
            self._newly_released.append(event_id)
