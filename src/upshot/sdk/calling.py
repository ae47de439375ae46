"""Calls a function for a run, and says how it ended."""

import asyncio
import contextvars
import inspect
import json
import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic_core

from upshot.sdk.limits import ERROR_CHARS_MAX, RESULT_BYTES_MAX
from upshot.sdk.run import Run, enter
from upshot.sdk.signature import Signature

log = logging.getLogger("upshot")


@dataclass(frozen=True, slots=True)
class Completed:
    """It returned. `result` is JSON."""

    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not be called, raised, or returned what cannot be sent.

    `again`: what went wrong may go right after the next wait of the deployment's `retries`.
    """

    error: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """Its task was cancelled and it let that happen."""


Outcome = Completed | Failed | Stopped


async def call(
    function: Callable[..., Any],
    signature: Signature,
    run: Run,
    parameters: Mapping[str, Any],
    *,
    retry_on: tuple[type[Exception], ...] = (),
) -> Outcome:
    """Call it with checked parameters: here if it is async, in a thread of its own if not."""
    enter(run)
    try:
        args, kwargs = signature.arguments(parameters)
    except ValueError as error:
        return Failed(shortened(str(error)))
    if not inspect.iscoroutinefunction(function):
        return await _in_thread(
            lambda: _outcome_of(lambda: function(*args, **kwargs), run, retry_on)
        )
    task = asyncio.current_task()
    if task is not None:
        run.stops_by(task.cancel)
    try:
        return _sendable(await function(*args, **kwargs))
    except asyncio.CancelledError:
        return Stopped()
    except BaseException as error:
        # SystemExit as well: it would end the worker, and with it the runs of others.
        return _failure(error, run, retry_on)


def _outcome_of(
    called: Callable[[], Any], run: Run, retry_on: tuple[type[Exception], ...]
) -> Outcome:
    try:
        return _sendable(called())
    except BaseException as error:
        return _failure(error, run, retry_on)


async def _in_thread(body: Callable[[], Outcome]) -> Outcome:
    """Threads that nobody waits for at exit: a function that never ends must not keep a worker."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Outcome] = loop.create_future()
    context = contextvars.copy_context()

    def settle(outcome: Outcome) -> None:
        if not future.done():
            future.set_result(outcome)

    def run() -> None:
        outcome = context.run(body)
        # The loop may have gone without it.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="upshot-run", daemon=True).start()
    return await future


def _sendable(result: Any) -> Outcome:
    try:
        value = pydantic_core.to_jsonable_python(result, inf_nan_mode="constants")
        size = len(json.dumps(value, allow_nan=False))
    except (ValueError, RecursionError) as error:
        return Failed(shortened(f"The function's result is no JSON: {error}"))
    if size > RESULT_BYTES_MAX:
        return Failed(
            f"The function's result has {size:,} bytes of JSON; at most {RESULT_BYTES_MAX:,} fit. "
            "Store it elsewhere and return where."
        )
    return Completed(value)


def _failure(error: BaseException, run: Run, retry_on: tuple[type[Exception], ...]) -> Failed:
    log.error("run %s of %s raised", run.id, run.deployment, exc_info=error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    what = shortened(f"{type(error).__name__}: {error}") + where
    return Failed(what, again=isinstance(error, retry_on))


def shortened(text: str) -> str:
    """Text that the server can store, and that is not a page long."""
    clean = text.replace("\0", "").encode("utf-8", "replace").decode()
    return clean if len(clean) <= ERROR_CHARS_MAX else clean[: ERROR_CHARS_MAX - 3] + "..."
