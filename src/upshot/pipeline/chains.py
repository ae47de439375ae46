"""`follows` over the edge of what is read: events that the events of a page wait for, or waited."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from uuid import UUID

import asyncpg

from upshot.core.following import Held
from upshot.core.history import Arrival, History
from upshot.core.limits import EXPLAIN_LINKS_MAX, HELD_FOR_MAX
from upshot.storage import trigger_history
from upshot.storage.events import Place
from upshot.storage.trigger_history import Link


@dataclass(slots=True)
class Chains:
    """What is known of events that are followed, and those still to come that no page brings."""

    are_brought: bool
    """Whether every event from here on is in some page."""
    known: set[UUID] = field(default_factory=set)
    """Evaluated before the first page."""
    _ahead: list[tuple[Place, UUID]] = field(default_factory=list)
    _links: dict[UUID, Link] = field(default_factory=dict)

    async def look_up(
        self, conn: asyncpg.Connection, rows: Sequence[asyncpg.Record], history: History
    ) -> None:
        """Find what the page's events follow, where neither the page nor the history has it."""
        here = {row["id"] for row in rows}
        asked = {row["follows"] for row in rows if row["follows"] is not None} - here
        found = await self._chain_of(conn, asked, history)
        if not found:
            return
        start, now = (rows[0]["xid"], rows[0]["position"]), rows[0]["received_at"]
        for link in found.values():
            if link.place >= start:
                if not self.are_brought:
                    heappush(self._ahead, (link.place, link.id))
            elif link.received_at + HELD_FOR_MAX >= now and _is_held(link, found, start):
                assert link.follows is not None
                history.hold(Held(link.id, link.follows, link.received_at + HELD_FOR_MAX))
            else:
                self.known.add(link.id)

    def arrive_before(self, place: Place, history: History) -> None:
        """Those that come before the page's event at this place."""
        while self._ahead and self._ahead[0][0] <= place:
            at, event_id = heappop(self._ahead)
            if at == place:
                continue
            link = self._links[event_id]
            history.arrive(
                Arrival(id=link.id, follows=link.follows, received_at=link.received_at, event=None),
                is_known=link.follows in self.known,
            )

    async def _chain_of(
        self, conn: asyncpg.Connection, asked: Collection[UUID], history: History
    ) -> dict[UUID, Link]:
        """These events, those that they follow, and so on; without what is known already."""
        found: dict[UUID, Link] = {}
        for _ in range(EXPLAIN_LINKS_MAX):
            asked = {
                one
                for one in asked
                if one not in self._links and one not in self.known and not history.knows(one)
            }
            if not asked:
                break
            links = {link.id: link for link in await trigger_history.links_of(conn, asked)}
            found |= links
            self._links |= links
            asked = {link.follows for link in links.values() if link.follows is not None}
        return found


def _is_held(link: Link, links: dict[UUID, Link], start: Place) -> bool:
    """Whether one from before `start` still waits there: for one behind it, or one that waits."""
    seen: set[UUID] = set()
    while link.follows is not None and link.id not in seen:
        seen.add(link.id)
        before = links.get(link.follows)
        if before is None or before.place >= start:
            return True
        link = before
    return False
