"""The open keys of a trigger: what is waited for, for whom; listed, and forgotten when asked."""

from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from fastapi import Path, Query, Response
from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import Listed, json_answer, no_answer
from upshot.api.paging import (
    DEFAULT,
    CursorText,
    Limit,
    QueryText,
    decode_cursor,
    encode_cursor,
    read_time_and_id,
)
from upshot.api.problems import problems
from upshot.api.routing import new_router
from upshot.api.services import Using
from upshot.core.errors import Invalid, NotFound, Problem
from upshot.core.evaluation import Described, KeyState, describe
from upshot.core.keys import Key, key_hash, part_name, text_of
from upshot.core.language import Name, compile_trigger
from upshot.core.limits import (
    EVENTS_KEPT_MAX,
    FOR_EACH_MAX,
    KEY_FORGOTTEN_WITHIN,
    KEY_JSON_CHARS_MAX,
    KEY_VALUE_CHARS_MAX,
    KEYS_DECODED_MAX,
    NODES_MAX,
)
from upshot.core.patterns import parse_pattern
from upshot.core.triggers import Node
from upshot.core.windows import Seen, decode_window
from upshot.storage import keys, triggers
from upshot.storage.keys import KeyFilter, KeyPage, OpenKey, Place, Sort
from upshot.storage.triggers import StoredTrigger

router = new_router("triggers")


class KeyEvent(BaseModel):
    """An event that a key remembers."""

    id: UUID
    time: AwareDatetime = Field(description="The event's time in windows.")


class KeyShown(BaseModel):
    """What is open for a key."""

    key: list[str] = Field(description="The values of `for_each`, in its order.")
    labels: dict[str, str] = Field(description="The same by their labels.")
    child: list[int] | None = Field(
        description="Of a composite: which of its children it is open in, a number for each level, "
        "from 0. null: the trigger itself."
    )
    state: KeyState
    count: int = Field(description="How many expected events have come, or children have fired.")
    threshold: int = Field(description="How many are needed.")
    started: AwareDatetime
    deadline: AwareDatetime | None = Field(
        description="When it ends, or when an absence is decided. null: it has no end."
    )
    after: KeyEvent | None = Field(description="The event that opened it.")
    events: list[KeyEvent] = Field(
        description=f"The events that count, the newest {EVENTS_KEPT_MAX}, oldest first."
    )


NameInPath = Annotated[Name, Path(description="The trigger's name.")]
_KEY: Final = Query(
    max_length=KEY_JSON_CHARS_MAX,
    description='A JSON array of the values of `for_each`, such as `["123"]`.',
)


@router.get(
    "/v1/triggers/{name}/keys",
    summary="List open keys",
    response_model=Listed[KeyShown],
    responses=problems(404),
)
async def list_keys(
    name: NameInPath,
    services: Using,
    key: Annotated[QueryText | None, _KEY] = None,
    value: Annotated[
        QueryText | None,
        Query(
            min_length=1,
            max_length=KEY_VALUE_CHARS_MAX,
            description="Only keys with a value like this: `*` is any run of characters.",
        ),
    ] = None,
    state: Annotated[KeyState | None, Query(description="Only keys in this state.")] = None,
    sort: Annotated[
        Sort,
        Query(
            description="`age`: the oldest first. `deadline`: the next to end first, and without "
            "those that have no end."
        ),
    ] = "age",
    limit: Limit = DEFAULT,
    cursor: CursorText = None,
) -> Response:
    """What is open now, as far as events are evaluated.

    A request looks through a bounded number of keys: a page may hold few or none and still have a
    `next_cursor`, which goes on.
    """
    wanted = KeyFilter(
        hash=None if key is None else key_hash(_read_key(key)),
        value=None if value is None else parse_pattern(value),
    )
    after = decode_cursor(cursor, lambda parts: _read_place(parts, sort))
    async with services.database.begin() as conn:
        # A window means what the version in force says that it was written under.
        await keys.see_one_moment(conn)
        trigger = await _load(conn, name)
        nodes = await _nodes_of(conn, trigger)
        page = await keys.page(
            conn,
            trigger.number,
            wanted,
            now=services.now(),
            sort=sort,
            after=after,
            limit=limit if state is None else KEYS_DECODED_MAX,
        )
    found, after = _first(page, nodes, state=state, limit=limit)
    return json_answer(
        {
            "items": [_shown(one) for one in found],
            "next_cursor": encode_cursor(sort, *after) if after else None,
        }
    )


@router.delete(
    "/v1/triggers/{name}/keys",
    summary="Forget a key",
    status_code=204,
    responses={
        202: {"description": "It will be, once the evaluator has come so far in the log."},
        204: {"description": "It is forgotten."},
        **problems(404),
    },
)
async def forget_key(
    name: NameInPath, services: Using, key: Annotated[QueryText, _KEY]
) -> Response:
    """What is open for the key ends, in all of a composite's children, without a firing.

    It ends at this request's place in the log: events posted before it are evaluated first, and
    those posted after it begin anew.
    """
    values = _read_key(key)
    async with services.database.begin() as conn:
        trigger = await _load(conn, name)
        if not await keys.is_open(conn, trigger.number, key_hash(values), now=services.now()):
            raise NotFound(f"No such key of the trigger {name!r} is open: {key[:200]}.")
        entry = await triggers.append_key_forgotten(conn, trigger, key=values)
    services.wake("evaluate")
    if await services.ingest.evaluated([entry], KEY_FORGOTTEN_WITHIN):
        return no_answer()
    return Response(status_code=202)


def _read_key(text: str) -> Key:
    try:
        written = msgspec.json.decode(text, type=list[str | int | float | bool])
        if len(written) > FOR_EACH_MAX:
            raise ValueError(f"{len(written)} values, and at most {FOR_EACH_MAX} are possible")
        key = tuple(text_of(value) or "" for value in written)
        msgspec.json.encode(key)
    except (ValueError, RecursionError) as error:
        message = 'This is no JSON array of values such as ["123"].'
        raise Invalid(f"key: {message}", [Problem(("query", "key"), message)]) from error
    return key


def _read_place(parts: Any, sort: Sort) -> Place:
    """Raises ValueError where it is of another list, or of another order."""
    written, at, node, hashed = parts
    if written != sort or type(node) is not int or not 0 <= node <= NODES_MAX:
        raise ValueError("no place of this list")
    time, key_id = read_time_and_id((at, hashed))
    return time, node, key_id


async def _load(conn: AsyncConnection, name: str) -> StoredTrigger:
    trigger = await triggers.load(conn, name)
    if trigger is None:
        raise NotFound(f"There is no trigger {name!r}.")
    return trigger


async def _nodes_of(conn: AsyncConnection, trigger: StoredTrigger) -> tuple[Node, ...]:
    """The conditions that the trigger's windows belong to; none before it is in force."""
    in_force = await keys.in_force(conn, trigger.id)
    if in_force is None:
        return ()
    return compile_trigger(
        in_force.document, trigger_id=trigger.id, number=trigger.number, version=in_force.version
    ).nodes


@dataclass(frozen=True, slots=True)
class _Open:
    """A key and what is open for it, at one node of the trigger."""

    row: OpenKey
    node: Node
    described: Described


def _first(
    page: KeyPage, nodes: tuple[Node, ...], *, state: KeyState | None, limit: int
) -> tuple[list[_Open], Place | None]:
    """The first `limit` of a page that are in this state (None: in any), and where to go on."""
    found: list[_Open] = []
    for row in page.keys:
        if len(found) == limit:
            return found, found[-1].row.place
        # A part of the trigger that is in force no more has nothing open.
        if row.node < len(nodes):
            node = nodes[row.node]
            described = describe(node.condition, decode_window(row.state))
            if state in (None, described.state):
                found.append(_Open(row, node, described))
    return found, page.after


def _shown(one: _Open) -> dict[str, Any]:
    key = msgspec.json.decode(one.row.key, type=list[str])
    described = one.described
    names = map(part_name, one.node.condition.for_each)
    return {
        "key": key,
        # Keys that were kept over a change may have been written under other labels.
        "labels": dict(zip(names, key, strict=False)),
        "child": list(one.node.path) or None,
        "state": described.state,
        "count": described.count,
        "threshold": described.needed,
        "started": one.row.started_at,
        "deadline": one.row.deadline_at,
        "after": described.after and _event(described.after),
        "events": [_event(seen) for seen in described.counted[-EVENTS_KEPT_MAX:]],
    }


def _event(seen: Seen) -> dict[str, Any]:
    return {"id": seen.id, "time": seen.at}
