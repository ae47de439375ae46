"""Stored events that a client wants to see, read piece by piece."""

from collections.abc import AsyncIterator
from dataclasses import replace

from upshot.core.events import Event
from upshot.core.limits import EVENTS_READ_AT_ONCE_MAX
from upshot.prefect.event_filters import Wanted
from upshot.storage import event_stream
from upshot.storage.database import Database
from upshot.storage.event_stream import Narrowed, Reach
from upshot.storage.events import Place
from upshot.storage.log import Cursor


def narrowed_of(wanted: Wanted) -> Narrowed:
    """What SQL can leave out of what is not wanted; the rest `Wanted.includes` has to."""
    return Narrowed(
        since=wanted.since,
        until=wanted.until,
        names=wanted.names,
        prefixes=wanted.prefixes,
        not_names=wanted.not_names,
        not_prefixes=wanted.not_prefixes,
        resource_ids=wanted.resource.ids,
        resource_prefixes=wanted.resource.prefixes,
        own=wanted.wants_own,
    )


async def look(
    database: Database, wanted: Wanted, within: Reach, *, passed: Cursor | None = None
) -> AsyncIterator[list[tuple[Place, Event]]]:
    """The events of a reach that are wanted, in its order, some at a time and maybe none.

    No connection is held while they are seen to: a client may be slow to take them.
    """
    narrowed = narrowed_of(wanted)
    while True:
        async with database.driver() as conn:
            found = await event_stream.read(
                conn, narrowed, within, limit=EVENTS_READ_AT_ONCE_MAX, passed=passed
            )
        yield [(place, event) for place, event in found.events if wanted.includes(event)]
        if found.is_whole:
            return
        within = replace(within, first=found.events[-1][0])
