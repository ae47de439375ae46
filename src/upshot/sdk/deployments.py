"""A function made a deployment: what the server is told of it, and how it is called."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, overload

from upshot.sdk.calling import Outcome, call
from upshot.sdk.errors import ClientError
from upshot.sdk.executions import Perform
from upshot.sdk.limits import NAME_CHARS_MAX, RUNS_AT_ONCE_DEFAULT, STOP_SECONDS_DEFAULT
from upshot.sdk.run import Run
from upshot.sdk.signature import Signature
from upshot.sdk.triggers import AnyTrigger

P = ParamSpec("P")
R = TypeVar("R")

Overlap = Literal["allow", "skip", "queue"]

_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")


class Deployment(Generic[P, R]):
    """A function that Upshot can run. Calling it calls the function, as before."""

    __name__: str

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        fields: Mapping[str, Any],
        triggers: Sequence[AnyTrigger],
        retries: Sequence[float] | None,
        retry_on: tuple[type[Exception], ...],
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ClientError(
                f"{name!r} is no name of a deployment: letters, digits and . _ - only, at most "
                f"{NAME_CHARS_MAX}, and no . _ - at the beginning."
            )
        self.function = function
        self.name = name
        self.triggers: tuple[AnyTrigger, ...] = tuple(triggers)
        self.signature = Signature(function)
        self._fields = fields
        self._retries = retries
        self._retry_on = retry_on
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Deployment {self.name!r}>"

    def serve(
        self,
        *,
        triggers: Sequence[AnyTrigger] = (),
        limit: int = RUNS_AT_ONCE_DEFAULT,
        mode: Literal["pull", "webhook"] = "pull",
        stop_within: float = STOP_SECONDS_DEFAULT,
        register: bool = True,
        managed_by: str | None = None,
        worker: str | None = None,
        api_url: str | None = None,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        url: str | None = None,
        secret: str | Sequence[str] | None = None,
    ) -> None:
        """Register it and its triggers, and work on its runs until the process is stopped.

        `triggers` are those of this deployment beside the ones it was made with. The rest is as in
        `upshot.serve`.
        """
        from upshot.sdk.serving import serve

        self.triggers = (*self.triggers, *triggers)
        serve(
            self,
            limit=limit,
            mode=mode,
            stop_within=stop_within,
            register=register,
            managed_by=managed_by,
            worker=worker,
            api_url=api_url,
            api_key=api_key,
            host=host,
            port=port,
            url=url,
            secret=secret,
        )

    def document(self, *, runner: Mapping[str, Any], managed_by: str) -> dict[str, Any]:
        """The deployment as it is registered."""
        retries = {} if self._retries is None else {"retries": list(self._retries)}
        return {
            **self._fields,
            "tags": sorted({*self._fields.get("tags", ()), managed_by}),
            "runner": {**runner, **retries},
            "parameter_schema": self.signature.schema(),
        }

    async def perform(self, run: Run, parameters: Mapping[str, Any]) -> Outcome:
        """Call the function for a run."""
        return await call(self.function, self.signature, run, parameters, retry_on=self._retry_on)


@overload
def deployment(function: Callable[P, R], /) -> Deployment[P, R]: ...
@overload
def deployment(
    *,
    name: str | None = None,
    description: str | None = None,
    tags: Sequence[str] | set[str] = (),
    parameters: Mapping[str, Any] | None = None,
    max_concurrency: int | None = None,
    run_timeout: float | timedelta | None = None,
    overlap: Overlap | None = None,
    retries: Sequence[float] | None = None,
    retry_on: tuple[type[Exception], ...] = (),
    triggers: Sequence[AnyTrigger] = (),
) -> Callable[[Callable[P, R]], Deployment[P, R]]: ...
def deployment(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    tags: Sequence[str] | set[str] = (),
    parameters: Mapping[str, Any] | None = None,
    max_concurrency: int | None = None,
    run_timeout: float | timedelta | None = None,
    overlap: Overlap | None = None,
    retries: Sequence[float] | None = None,
    retry_on: tuple[type[Exception], ...] = (),
    triggers: Sequence[AnyTrigger] = (),
) -> Deployment[P, R] | Callable[[Callable[P, R]], Deployment[P, R]]:
    """Make a function a deployment.

    Without `name` it has the function's, with `-` for `_`; without `description` the first
    paragraph of its docstring. `retries` are the seconds to wait before each further attempt, after
    a worker was lost or the function raised one of `retry_on`; whatever else it raises fails the
    run at once. What is left out is the server's default.
    """
    timeout = run_timeout.total_seconds() if isinstance(run_timeout, timedelta) else run_timeout
    given: dict[str, Any] = {
        "parameters": dict(parameters) if parameters is not None else None,
        "max_concurrency": max_concurrency,
        "run_timeout": timeout,
        "overlap": overlap,
        "tags": sorted(set(tags)),
    }

    def made(function: Callable[P, R]) -> Deployment[P, R]:
        told = description if description is not None else _first_paragraph(function.__doc__)
        fields = {**given, "description": told}
        return Deployment(
            function,
            name=name or function.__name__.strip("_").replace("_", "-"),
            fields={field: value for field, value in fields.items() if value is not None},
            triggers=triggers,
            retries=retries,
            retry_on=retry_on,
        )

    return made if function is None else made(function)


def performer(deployments: Mapping[str, Deployment[..., Any]]) -> Perform:
    """Calls the function of the run's deployment."""

    async def perform(run: Run, parameters: Mapping[str, Any]) -> Outcome:
        return await deployments[run.deployment].perform(run, parameters)

    return perform


def _first_paragraph(docstring: str | None) -> str | None:
    return " ".join(docstring.strip().split("\n\n")[0].split()) if docstring else None
