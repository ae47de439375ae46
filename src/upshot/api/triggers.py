"""Triggers: registered, changed, shown. Each change is an entry of the log, in the same commit."""

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal
from uuid import UUID, uuid4

from fastapi import Body, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, TypeAdapter
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import Listed, json_answer, no_answer
from upshot.api.bodies import MERGE_PATCH_BODY, merge_patch, validated
from upshot.api.paging import (
    DEFAULT,
    CursorText,
    Limit,
    decode_cursor,
    named_page,
    read_name,
)
from upshot.api.problems import BODY, problems
from upshot.api.routing import new_router
from upshot.api.services import Using
from upshot.core.errors import Conflict, Invalid, NotFound, Problem
from upshot.core.language import (
    TRIGGER_FIELDS,
    AnyTrigger,
    CompoundTrigger,
    EventTrigger,
    Loc,
    Name,
    SequenceTrigger,
    TriggerWritten,
    compiled_parameters,
    read_trigger,
    runs_written,
    same_condition,
    stored_document,
)
from upshot.core.parameter_schema import compile_schema, violations_ahead
from upshot.core.templates import compile_parameters, merged_source
from upshot.storage import deployments, triggers
from upshot.storage.deployments import Deployment
from upshot.storage.triggers import Keys, StoredTrigger

router = new_router("triggers")

_READ_ONLY: Final = ("id", "version", "created", "updated", "keys")


def _without_what_is_only_shown(document: Any) -> Any:
    """What is only shown may be sent back, and is ignored."""
    if isinstance(document, dict):
        return {name: value for name, value in document.items() if name not in _READ_ONLY}
    return document


TriggerSent = Annotated[TriggerWritten, BeforeValidator(_without_what_is_only_shown)]


_trigger_adapter: Final[TypeAdapter[AnyTrigger]] = TypeAdapter(TriggerSent)


class _Shown(BaseModel):
    """What a registered trigger has beside what was written."""

    name: Name
    id: UUID
    version: int = Field(description="Counts the changes; 1 is the trigger as it was made.")
    created: AwareDatetime
    updated: AwareDatetime


class _Changed(_Shown):
    """What is told of a change."""

    keys: dict[Literal["kept", "forgotten"], int] | None = Field(
        default=None,
        description="What became of its open keys; only where something was changed.",
    )


class EventTriggerShown(_Shown, EventTrigger):
    """An event trigger, as it is registered."""

    name: Name


class CompoundTriggerShown(_Shown, CompoundTrigger):
    """A compound trigger, as it is registered."""

    name: Name


class SequenceTriggerShown(_Shown, SequenceTrigger):
    """A sequence trigger, as it is registered."""

    name: Name


class EventTriggerChanged(_Changed, EventTrigger):
    """An event trigger after a change, and what became of its open keys."""

    name: Name


class CompoundTriggerChanged(_Changed, CompoundTrigger):
    """A compound trigger after a change, and what became of its open keys."""

    name: Name


class SequenceTriggerChanged(_Changed, SequenceTrigger):
    """A sequence trigger after a change, and what became of its open keys."""

    name: Name


TriggerShown = EventTriggerShown | CompoundTriggerShown | SequenceTriggerShown
KeysChanged = EventTriggerChanged | CompoundTriggerChanged | SequenceTriggerChanged

NameInPath = Annotated[Name, Path(description="The trigger's name.")]
KeysWanted = Annotated[
    Literal["keep"] | None,
    Query(description="Keep the open keys although the condition changes."),
]
_EXAMPLE: Final = {
    "deployment": "post-order-complete",
    "after": ["order.created"],
    "expect": ["order.complete"],
    "for_each": ["prefect.resource.id"],
    "parameters": {"user_id": "{{ event.resource.id }}"},
}


@router.post(
    "/v1/triggers",
    summary="Register a trigger",
    status_code=201,
    response_model=TriggerShown,
    responses=problems(*BODY, 409),
)
async def post_trigger(
    services: Using,
    written: Annotated[TriggerSent, Body(examples=[{"name": "order-complete", **_EXAMPLE}])],
) -> Response:
    """It sees every event that is posted after the answer, and none from before."""
    if written.name is None:
        raise Invalid("name: Field required", [Problem(("name",), "Field required")])
    async with services.database.begin() as conn:
        made = await _create(conn, written.name, written)
    if made is None:
        raise _taken(written.name)
    services.wake("evaluate")
    return json_answer(shown(made), 201)


@router.put(
    "/v1/triggers/{name}",
    summary="Register or replace a trigger",
    response_model=KeysChanged,
    responses={
        200: {"description": "It is replaced, or was the same before."},
        201: {"description": "It is registered.", "model": TriggerShown},
        **problems(*BODY, 404, 409),
    },
)
async def put_trigger(
    name: NameInPath,
    services: Using,
    written: Annotated[TriggerSent, Body(examples=[_EXAMPLE])],
    keys: KeysWanted = None,
) -> Response:
    """The same request again changes nothing. Another `name` in the body renames.

    A change of the condition forgets the open keys, unless `?keys=keep` is given and `for_each` is
    the same; any other change keeps them.
    """
    async with services.database.begin() as conn:
        stored = await triggers.lock(conn, name)
        if stored is None:
            if written.name not in (None, name):
                raise NotFound(f"There is no trigger {name!r} that could be renamed.")
            made = await _create(conn, name, written)
            if made is None:
                # Somebody else has just made it.
                stored = await _locked(conn, name)
        if stored is not None:
            answer = await _change(conn, stored, written, keys)
        else:
            assert made is not None
            answer = json_answer(shown(made), 201)
    services.wake("evaluate")
    return answer


@router.patch(
    "/v1/triggers/{name}",
    summary="Change a trigger",
    response_model=KeysChanged,
    responses=problems(*BODY, 404, 409),
    openapi_extra=MERGE_PATCH_BODY,
)
async def patch_trigger(
    name: NameInPath,
    services: Using,
    patch: Annotated[dict[str, Any], Body()],
    keys: KeysWanted = None,
) -> Response:
    """A merge patch (RFC 7396): what is not sent stays, null goes back to the default."""
    async with services.database.begin() as conn:
        stored = await _locked(conn, name)
        document = {"name": stored.name, **stored.document}
        merged = merge_patch(document, patch)
        written = validated(_trigger_adapter, merged, known=TRIGGER_FIELDS)
        answer = await _change(conn, stored, written, keys)
    services.wake("evaluate")
    return answer


@router.get(
    "/v1/triggers/{name}",
    summary="Show a trigger",
    response_model=TriggerShown,
    responses=problems(404),
)
async def show_trigger(name: NameInPath, services: Using) -> Response:
    """One trigger, in the form in which it is kept."""
    async with services.database.begin() as conn:
        stored = await triggers.load(conn, name)
    if stored is None:
        raise _unknown(name)
    return json_answer(shown(stored))


@router.get(
    "/v1/triggers",
    summary="List triggers",
    response_model=Listed[TriggerShown],
    responses=problems(),
)
async def list_triggers(
    services: Using, limit: Limit = DEFAULT, cursor: CursorText = None
) -> Response:
    """By name."""
    after = decode_cursor(cursor, read_name) or ""
    async with services.database.begin() as conn:
        found = await triggers.page(conn, after=after, limit=limit + 1)
    return named_page(found, limit=limit, shown=shown)


@router.delete(
    "/v1/triggers/{name}", summary="Delete a trigger", status_code=204, responses=problems(404)
)
async def delete_trigger(name: NameInPath, services: Using) -> Response:
    """Its open keys go with it; its runs stay."""
    async with services.database.begin() as conn:
        stored = await _locked(conn, name)
        await triggers.append_deleted(conn, stored)
        await triggers.remove(conn, stored.id)
    services.wake("evaluate")
    return no_answer()


def shown(trigger: StoredTrigger) -> dict[str, Any]:
    """A trigger as it is answered."""
    return {
        "name": trigger.name,
        "id": trigger.id,
        "version": trigger.version,
        **trigger.document,
        "created": trigger.created_at,
        "updated": trigger.updated_at,
    }


async def _create(conn: AsyncConnection, name: str, written: AnyTrigger) -> StoredTrigger | None:
    """None: the name is taken."""
    await check(conn, written)
    made = await triggers.create(
        conn, trigger_id=uuid4(), name=name, document=stored_document(written)
    )
    if made is not None:
        await triggers.append_saved(conn, made, keys="forget", condition_changed=True)
    return made


async def _change(
    conn: AsyncConnection,
    stored: StoredTrigger,
    written: AnyTrigger,
    keys_wanted: Literal["keep"] | None,
) -> Response:
    before = read_trigger(stored.document)
    name = written.name or stored.name
    if stored_document(before) == stored_document(written) and name == stored.name:
        return json_answer(shown(stored))
    await check(conn, written)
    is_same = same_condition(before, written)
    keys: Keys = "keep" if is_same else _keys_after(before, written, keys_wanted)
    try:
        changed = await triggers.replace(
            conn, stored.id, name=name, document=stored_document(written)
        )
    except IntegrityError:
        raise _taken(name) from None
    await triggers.append_saved(conn, changed, keys=keys, condition_changed=not is_same)
    count = await triggers.open_keys(conn, stored.number)
    told = {"kept": count} if keys == "keep" else {"forgotten": count}
    return json_answer({**shown(changed), "keys": told})


def _keys_after(before: AnyTrigger, after: AnyTrigger, wanted: Literal["keep"] | None) -> Keys:
    if wanted is None:
        return "forget"
    if before.for_each != after.for_each:
        message = "The open keys cannot be kept, since for_each changes. Leave out ?keys=keep."
        raise Invalid(message, [Problem(("query", "keys"), message)])
    return "keep"


async def check(conn: AsyncConnection, written: AnyTrigger) -> None:
    """What takes more than the document to know: its templates, and its deployments.

    Raises:
        Invalid: one of them is wrong; the problems say where in the trigger.
    """
    compiled_parameters(written)
    written.compiled()
    ran = list(runs_written(written))
    names = {run.deployment for _, run in ran if run.deployment is not None}
    held = await deployments.hold_all(conn, names)
    for loc, run in ran:
        if run.deployment is None:
            continue
        deployment = held.get(run.deployment)
        if deployment is None:
            message = f"There is no deployment {run.deployment!r}. Make it first."
            raise Invalid(message, [Problem((*loc, "deployment"), message)])
        # A trigger that a change of the schema has broken can still be disabled.
        if written.enabled and deployment.parameter_schema is not None:
            _check_schema(deployment, deployment.parameter_schema, run.parameters, loc)


def _check_schema(
    deployment: Deployment, schema: dict[str, Any], parameters: dict[str, Any], loc: Loc
) -> None:
    loc = (*loc, "parameters")
    try:
        given = compile_parameters(merged_source(deployment.parameters, parameters))
    except Invalid as error:
        raise Invalid(error.message, _inside(loc, error.problems)) from None
    constants = given.constants
    found = violations_ahead(
        compile_schema(schema), constants=constants, templated=given.source.keys() - constants
    )
    if found:
        where = ".".join(map(str, found[0].loc))
        raise Invalid(
            f"The parameters break the schema of deployment {deployment.name!r}: "
            f"{where}: {found[0].msg}",
            _inside(loc, found),
        )


def _inside(loc: Loc, problems: Iterable[Problem]) -> list[Problem]:
    return [Problem((*loc, *one.loc), one.msg) for one in problems]


async def _locked(conn: AsyncConnection, name: str) -> StoredTrigger:
    stored = await triggers.lock(conn, name)
    if stored is None:
        raise _unknown(name)
    return stored


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no trigger {name!r}.")


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a trigger {name!r} already. PUT replaces it.")
