"""How every operation of `/v1` runs: admit, read, do, and answer problems in one way."""

from collections.abc import Callable, Coroutine
from typing import Any, cast, get_args

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from upshot.api.auth import Guard, scope_of
from upshot.api.bodies import Held, read_json_body
from upshot.api.problems import answer_to


class Route(APIRoute):
    """Nothing of a body is read before the key is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        run = super().get_route_handler()
        takes_json = self.body_field is not None
        known = _fields_of(self.body_field.field_info.annotation) if self.body_field else ()

        async def answered(request: Request) -> Response:
            held = request.state.held = Held(request.app.state.bodies)
            try:
                guard = cast(Guard, request.app.state.guard)
                await guard.admit(request, scope_of(method=request.method, path=self.path))
                if takes_json:
                    # Where FastAPI's own reading looks first.
                    request._body, request._json = await read_json_body(request)
                return await run(request)
            except Exception as error:
                return answer_to(error, known=known)
            finally:
                held.release()

        return answered


def _fields_of(annotation: Any) -> tuple[str, ...]:
    """The names that a body's model has, or those of the models of a union."""
    models = get_args(annotation) or (annotation,)
    return tuple(name for model in models for name in getattr(model, "model_fields", ()))


def new_router(tag: str) -> APIRouter:
    return APIRouter(route_class=Route, tags=[tag])
