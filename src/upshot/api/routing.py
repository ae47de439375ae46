"""How every operation of `/v1` runs: admit, read, do, and answer problems in one way."""

from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from upshot.api.auth import Guard, scope_of
from upshot.api.bodies import read_json_body
from upshot.api.problems import answer_to


class Route(APIRoute):
    """Nothing of a body is read before the key is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        run = super().get_route_handler()
        takes_json = self.body_field is not None

        async def answered(request: Request) -> Response:
            try:
                guard = cast(Guard, request.app.state.guard)
                await guard.admit(request, scope_of(method=request.method, path=self.path))
                if takes_json:
                    # Where FastAPI's own reading looks first.
                    request._body, request._json = await read_json_body(request)
                return await run(request)
            except Exception as error:
                return answer_to(error)

        return answered


def new_router(tag: str) -> APIRouter:
    return APIRouter(route_class=Route, tags=[tag])
