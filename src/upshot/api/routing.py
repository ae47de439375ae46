"""How every operation of `/v1` runs: admit, read, do, and answer problems in one way."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, cast, get_args

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from upshot.api.auth import Guard, scope_of
from upshot.api.bodies import Held, read_json_body
from upshot.api.problems import answer_to
from upshot.core.limits import JSON_BODY_BYTES_MAX
from upshot.storage.api_keys import Scope


class Route(APIRoute):
    """Nothing of a body is read before the key is looked at."""

    json_bytes_max = JSON_BODY_BYTES_MAX

    def needed_scope(self, method: str) -> Scope:
        return scope_of(method=method, path=self.path)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        run = super().get_route_handler()
        takes_json = self.body_field is not None
        known = _fields_of(self.body_field.field_info.annotation) if self.body_field else ()

        async def read_and_run(request: Request) -> Response:
            if takes_json:
                # Where FastAPI's own reading looks first.
                request._body, request._json = await read_json_body(
                    request, limit=self.json_bytes_max
                )
            return await run(request)

        async def answered(request: Request) -> Response:
            scope = self.needed_scope(request.method)
            return await answer(request, read_and_run, scope=scope, known=known)

        return answered


async def answer(
    request: Request,
    run: Callable[[Request], Awaitable[Response]],
    *,
    scope: Scope,
    known: Sequence[str] = (),
) -> Response:
    """What `run` answers, once the request is admitted; or what is wrong. It never raises.

    `known`: the fields that could have been meant where one is unknown.
    """
    held = request.state.held = Held(request.app.state.bodies)
    try:
        guard = cast(Guard, request.app.state.guard)
        await guard.admit(request, scope)
        return await run(request)
    except Exception as error:
        return answer_to(error, known=known)
    finally:
        held.release()


def _fields_of(annotation: Any) -> tuple[str, ...]:
    """The names that a body's model has, or those of the models of a union."""
    models = get_args(annotation) or (annotation,)
    return tuple(name for model in models for name in getattr(model, "model_fields", ()))


def new_router(tag: str) -> APIRouter:
    return APIRouter(route_class=Route, tags=[tag])
