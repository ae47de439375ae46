"""Heavy parameters in processes of their own: the same results, and nothing they can break."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upshot.core.errors import Overloaded, Problem
from upshot.core.events import Event
from upshot.core.limits import MIB
from upshot.core.templates import RenderFailed, compile_parameters, event_document, event_view
from upshot.pipeline.render import Renderers

Source = dict[str, Any]
T = TypeVar("T")

LOOP: Source = {"p": "{% for i in event.payload.list %}{{ i }},{% endfor %}"}
SLOW: Source = {
    "p": "{% for i in event.payload.list %}{{ event.payload.text | sort | length }}{% endfor %}"
}
HUNGRY: Source = {
    "p": "{{ [" + ", ".join(["event.payload.list"] * 150) + "] | sum(start=[]) | length }}"
}


def context(payload: dict[str, Any]) -> dict[str, Any]:
    document = {"id": "1", "event": "order", "resource": {"prefect.resource.id": "7"}}
    return {"event": {**document, "related": [], "payload": payload}, "after": None}


SMALL = context({"list": [1, 2**70, "x"]})
LONG = context({"list": list(range(1_000)), "text": "x" * 200_000})
WIDE = context({"list": list(range(60_000))})


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


async def failure(renderers: Renderers, source: Source, seen: Mapping[str, Any]) -> str:
    with pytest.raises(RenderFailed) as failed:
        await renderers.render(source, seen)
    (problem,) = failed.value.problems
    assert problem.msg in failed.value.message
    return problem.msg


def wait_for_the_end_of(process: int) -> None:
    """Without taking its status from whoever started it; it may even have been taken already."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


def environment_of(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes()


def cpu_seconds_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_process_is_started_when_first_needed_and_used_again() -> None:
    async def scenario() -> None:
        async with Renderers() as renderers:
            assert renderers.process_ids() == []
            assert await renderers.render(LOOP, SMALL) == {"p": f"1,{2**70},x,"}
            (first,) = renderers.process_ids()
            assert await renderers.render({"a": 1.5, "b": [None]}, {}) == {"a": 1.5, "b": [None]}
            assert renderers.process_ids() == [first]
        assert renderers.process_ids() == []
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)

    run(scenario())


def test_there_are_never_more_processes_than_the_pool_holds() -> None:
    async def scenario() -> None:
        async with Renderers(size=2) as renderers:
            results = await asyncio.gather(*(renderers.render(LOOP, SMALL) for _ in range(10)))
            assert len(renderers.process_ids()) == 2
        assert results == [{"p": f"1,{2**70},x,"}] * 10

    run(scenario())


def test_a_template_that_fails_says_why_and_spares_the_process() -> None:
    source = {"a": {"b": ["ok", "one\n{{ event.payload.lst ~ 1 }}"]}}

    async def scenario() -> None:
        async with Renderers() as renderers:
            with pytest.raises(RenderFailed, match="did you mean 'list'") as failed:
                await renderers.render(source, SMALL)
            before = renderers.process_ids()
            assert await renderers.render(LOOP, SMALL)
            assert renderers.process_ids() == before
        with pytest.raises(RenderFailed) as in_process:
            compile_parameters(source).render(SMALL)
        assert failed.value.problems == in_process.value.problems
        assert failed.value.message == in_process.value.message

    run(scenario())


def test_parameters_that_cannot_be_compiled_fail_their_render_alone() -> None:
    async def scenario() -> None:
        async with Renderers() as renderers:
            assert "'evnt' is unknown" in await failure(renderers, {"p": "{{ evnt }}"}, SMALL)
            assert await renderers.render(LOOP, SMALL)

    run(scenario())


def test_a_template_that_takes_too_long_is_killed_and_its_process_replaced() -> None:
    async def scenario() -> None:
        async with Renderers(size=1, seconds=0.1) as renderers:
            assert await failure(renderers, SLOW, LONG) == "rendering took longer than 0.1 s"
            assert renderers.process_ids() == []
            assert await renderers.render(LOOP, SMALL)
            assert len(renderers.process_ids()) == 1

    run(scenario())


def test_the_time_of_several_renders_does_not_add_up() -> None:
    short = context({"list": [1], "text": "x" * 10_000})

    async def scenario() -> None:
        async with Renderers(size=1, seconds=0.1) as renderers:
            await renderers.render(SLOW, short)
            (child,) = renderers.process_ids()
            before = cpu_seconds_of(child)
            while cpu_seconds_of(child) < before + 0.2:
                assert await renderers.render(SLOW, short) == {"p": "10000"}
            assert renderers.process_ids() == [child]

    run(scenario())


def test_a_template_that_needs_too_much_memory_fails_alone() -> None:
    async def scenario() -> None:
        async with Renderers(size=1, seconds=20, memory_bytes=32 * MIB) as renderers:
            reason = await failure(renderers, HUNGRY, WIDE)
            assert reason == "rendering needs more memory than 32 MiB"
            assert await renderers.render(LOOP, SMALL)

    run(scenario())


def test_a_process_that_dies_while_it_renders_fails_that_render_alone() -> None:
    async def scenario() -> None:
        async with Renderers(size=1) as renderers:
            await renderers.render(LOOP, SMALL)
            (child,) = renderers.process_ids()
            os.kill(child, signal.SIGSTOP)

            async def kill() -> None:
                os.kill(child, signal.SIGKILL)

            reason, _ = await asyncio.gather(failure(renderers, LOOP, LONG), kill())
            assert reason == "the renderer was ended by SIGKILL"
            assert await renderers.render(LOOP, SMALL)

    run(scenario())


def test_a_process_that_died_while_idle_fails_nothing() -> None:
    async def scenario() -> None:
        async with Renderers(size=1) as renderers:
            await renderers.render(LOOP, SMALL)
            (child,) = renderers.process_ids()
            os.kill(child, signal.SIGKILL)
            wait_for_the_end_of(child)
            assert await renderers.render(LOOP, SMALL)
            assert renderers.process_ids() != [child]

    run(scenario())


def test_a_cancelled_render_leaves_no_answer_for_the_next() -> None:
    async def scenario() -> None:
        async with Renderers(size=1) as renderers:
            await renderers.render(LOOP, SMALL)
            (child,) = renderers.process_ids()
            os.kill(child, signal.SIGSTOP)
            under_way = asyncio.create_task(renderers.render(LOOP, LONG))

            async def cancel() -> None:
                under_way.cancel()

            cancelled, _ = await asyncio.gather(under_way, cancel(), return_exceptions=True)
            assert isinstance(cancelled, asyncio.CancelledError)
            assert renderers.process_ids() == []
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)
            assert await renderers.render({"p": "{{ event.id ~ '!' }}"}, SMALL) == {"p": "1!"}

    run(scenario())


def test_stopping_waits_for_what_is_rendered_and_takes_nothing_more() -> None:
    async def scenario() -> None:
        renderers = Renderers(size=1)
        rendered, _ = await asyncio.gather(renderers.render(LOOP, SMALL), renderers.stop())
        assert rendered == {"p": f"1,{2**70},x,"}
        with pytest.raises(Overloaded):
            await renderers.render(LOOP, SMALL)
        await renderers.stop()
        assert renderers.process_ids() == []

    run(scenario())


def test_a_process_ends_when_the_server_is_gone() -> None:
    command = [sys.executable, "-P", "-m", "upshot.pipeline.render", "1", str(64 * MIB)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.read(4) == b"\0\0\0\0"
        child.send_signal(signal.SIGINT)
        child.stdin.close()
        assert child.wait(timeout=10) == 0


def test_a_process_knows_no_secrets_and_imports_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSHOT_API_KEY", "secret")

    async def scenario() -> None:
        async with Renderers() as renderers:
            await renderers.render(LOOP, SMALL)
            (child,) = renderers.process_ids()
            environment = environment_of(child)
            assert b"PATH=" in environment
            assert b"UPSHOT_API_KEY" not in environment

    run(scenario())
    listing = "import sys, upshot.pipeline.render; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, check=True, text=True
    ).stdout.split()
    assert "jinja2" in loaded
    assert not {"fastapi", "sqlalchemy", "asyncpg", "aiohttp", "pydantic"} & set(loaded)


def test_the_view_of_an_event_can_be_sent() -> None:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    event = Event(
        id=UUID(int=1),
        name="order",
        resource={"prefect.resource.id": "7"},
        related=(),
        payload='{"list": [1]}',
        occurred_at=now,
        received_at=now,
    )

    async def scenario() -> None:
        async with Renderers() as renderers:
            of_view = await renderers.render({"p": "{{ event }}"}, {"event": event_view(event)})
        assert of_view == {"p": event_document(event)}

    run(scenario())


@pytest.fixture(scope="module")
def pool() -> Iterator[tuple[asyncio.Runner, Renderers]]:
    with asyncio.Runner() as runner:
        renderers = Renderers()
        yield runner, renderers
        runner.run(renderers.stop())


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
TEMPLATES = [
    "{{ event.payload.v }}",
    "{{ event.payload.v }} as text",
    "{{ event.payload.v ~ event.payload.w }}",
    "{{ event.payload.v + event.payload.w }}",
    "{{ event.payload.v * 3 }}",
    "{{ event.payload.v | tojson }}",
    "{{ event.payload.v | list }}",
    "{{ event.payload.v | sort }}",
    "{{ event.payload.v | join('-') }}",
    "{{ event.payload.v | first }}",
    "{{ event.payload.v | int }}",
    "{{ event.payload.v == event.payload.w }}",
    "{{ event.payload.v.id | default(event.payload.w) }}",
    "{{ event.payload.v[0] }}",
    "{{ event.payload.v | unique | map('upper') }}",
    "{% for i in event.payload.v %}{{ loop.index }} {{ i }};{% else %}none{% endfor %}",
    "{% for k, v in event.payload | items %}{{ k }}={{ v }};{% endfor %}",
]
COMPILED = {template: compile_parameters({"p": template}) for template in TEMPLATES}


def outcome(of: dict[str, Any] | RenderFailed) -> str | tuple[Problem, ...]:
    return of.problems if isinstance(of, RenderFailed) else repr(of)


@settings(deadline=None)
@given(template=st.sampled_from(TEMPLATES), v=VALUE, w=VALUE)
def test_both_ways_to_render_agree(
    pool: tuple[asyncio.Runner, Renderers], template: str, v: Any, w: Any
) -> None:
    runner, renderers = pool
    source, seen = {"p": template}, context({"v": v, "w": w})

    def here() -> dict[str, Any] | RenderFailed:
        try:
            return COMPILED[template].render(seen)
        except RenderFailed as failed:
            return failed

    async def there() -> dict[str, Any] | RenderFailed:
        try:
            return await renderers.render(source, seen)
        except RenderFailed as failed:
            return failed

    assert outcome(runner.run(there())) == outcome(here())
