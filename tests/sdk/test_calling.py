"""A function gets checked parameters, and whatever it does ends as an outcome that can be sent."""

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

import upshot
from upshot.sdk.calling import Completed, Failed, Outcome, Stopped
from upshot.sdk.deployments import Deployment, deployment
from upshot.sdk.errors import ClientError
from upshot.sdk.limits import ERROR_CHARS_MAX, RESULT_BYTES_MAX
from upshot.sdk.run import Run

pytestmark = pytest.mark.anyio


class Item(BaseModel):
    sku: str
    count: int = 1


def run(**more: Any) -> Run:
    fields: dict[str, Any] = {
        "id": "r",
        "deployment": "d",
        "attempt": 1,
        "scheduled_at": datetime(2026, 1, 5, tzinfo=UTC),
        "trigger": None,
        "labels": {},
        "event": None,
    }
    return Run(**{**fields, **more})


async def outcome(function: Callable[..., Any], **parameters: Any) -> Outcome:
    return await deployment(name="d")(function).perform(run(), parameters)


@deployment
def typed_order(
    user_id: str, items: list[Item], due: date, total: Annotated[float, Field(gt=0)] = 1.0
) -> dict[str, Any]:
    """Ship an order.

    More that nobody lists.
    """
    return {"due": due, "items": items, "user": user_id, "total": total}


def described(deployment: Deployment[..., Any]) -> dict[str, Any]:
    return deployment.document(runner={"type": "pull"}, managed_by="managed_by:x")


def test_a_deployment_is_told_with_its_name_its_text_and_its_schema() -> None:
    told = described(typed_order)
    assert typed_order.name == "typed-order"
    assert told["description"] == "Ship an order."
    assert told["runner"] == {"type": "pull"}
    schema = told["parameter_schema"]
    assert schema["required"] == ["user_id", "items", "due"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["total"]["exclusiveMinimum"] == 0


def test_a_decorated_function_is_still_the_function() -> None:
    got = typed_order("7", [Item(sku="a")], due=date(2026, 1, 5))
    assert (got["user"], typed_order.__name__) == ("7", "typed_order")


async def test_parameters_come_as_the_types_that_the_function_names() -> None:
    got = await typed_order.perform(
        run(), {"user_id": "7", "items": [{"sku": "a"}], "due": "2026-01-05"}
    )
    assert got == Completed(
        {"due": "2026-01-05", "items": [{"sku": "a", "count": 1}], "user": "7", "total": 1.0}
    )


async def test_wrong_parameters_fail_the_run_and_say_each_of_them() -> None:
    got = await typed_order.perform(run(), {"user_id": 7, "items": [{"sku": "a"}], "total": 0})
    assert isinstance(got, Failed)
    assert got.error.startswith("The parameters are not what typed_order takes: ")
    for wrong in ("user_id: Input should be a valid string", "due: Missing", "total: Input"):
        assert wrong in got.error


async def test_a_validation_error_inside_the_function_is_not_taken_for_its_parameters() -> None:
    def bad() -> None:
        Item.model_validate({})

    got = await outcome(bad)
    assert isinstance(got, Failed)
    assert got.error.startswith("ValidationError: 1 validation error for Item")


async def test_an_error_says_what_and_where() -> None:
    async def bad() -> None:
        raise LookupError("no user\0 7\ud800")

    got = await outcome(bad)
    assert isinstance(got, Failed)
    assert got.error.startswith("LookupError: no user 7? (test_calling.py, line ")


def leave() -> None:
    sys.exit(3)


async def aleave() -> None:
    sys.exit(3)


async def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", [leave, aleave, interrupt])
async def test_a_function_that_ends_the_process_fails_its_run_alone(
    function: Callable[[], Any],
) -> None:
    assert isinstance(await outcome(function), Failed)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (object(), "no JSON"),
        (float("nan"), "no JSON"),
        ("x" * RESULT_BYTES_MAX, "65,538 bytes"),
    ],
)
async def test_a_result_that_cannot_be_sent_fails_with_the_reason(result: Any, says: str) -> None:
    got = await outcome(lambda: result)
    assert isinstance(got, Failed)
    assert says in got.error


async def test_only_the_errors_named_are_tried_again() -> None:
    def bad(missing: bool) -> None:
        raise FileNotFoundError if missing else ValueError

    made = deployment(name="d", retry_on=(OSError,))(bad)
    got = [await made.perform(run(), {"missing": missing}) for missing in (True, False)]
    assert [isinstance(one, Failed) and one.again for one in got] == [True, False]


async def test_a_long_error_is_shortened() -> None:
    def bad() -> None:
        raise ValueError("x" * 100_000)

    got = await outcome(bad)
    assert isinstance(got, Failed)
    assert len(got.error) < ERROR_CHARS_MAX + 100


async def test_functions_see_their_run_and_only_theirs() -> None:
    def who() -> str:
        return upshot.current_run().id

    async def awho() -> str:
        await asyncio.to_thread(lambda: None)
        return upshot.current_run().id

    for function in (who, awho):
        made = deployment(name="d")(function)
        performed = [made.perform(run(id=str(number)), {}) for number in range(3)]
        got = await asyncio.gather(*map(asyncio.ensure_future, performed))
        assert got == [Completed("0"), Completed("1"), Completed("2")]
    with pytest.raises(LookupError, match="No run is under way"):
        upshot.current_run()
    assert not upshot.cancelled()


async def test_a_cancelled_run_stops_an_async_function_and_is_seen_by_a_plain_one() -> None:
    begun = asyncio.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    one = run()
    task = asyncio.ensure_future(deployment(name="d")(forever).perform(one, {}))
    await begun.wait()
    one.cancel()
    assert await task == Stopped()

    other = run()
    loop = asyncio.get_running_loop()
    in_thread = asyncio.Event()

    def until_cancelled() -> str:
        loop.call_soon_threadsafe(in_thread.set)
        while not upshot.cancelled():
            pass
        return "saw it"

    task = asyncio.ensure_future(deployment(name="d")(until_cancelled).perform(other, {}))
    await in_thread.wait()
    other.cancel()
    assert await task == Completed("saw it")


def test_parameters_without_a_name_and_names_that_are_none_are_refused() -> None:
    with pytest.raises(ClientError, match="'args' of f has no name"):

        @deployment(name="d")
        def f(*args: int) -> None: ...

    with pytest.raises(ClientError, match="is no name of a deployment"):

        @deployment(name="no spaces")
        def g() -> None: ...
