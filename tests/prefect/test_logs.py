"""Logs of flow runs: read leniently, stored in batches, found in pages."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from tests.api.conftest import Api
from upshot.core.errors import Invalid, Malformed
from upshot.core.limits import LOG_MESSAGE_CHARS_MAX
from upshot.metrics import FLOW_LOG_LINES
from upshot.prefect.log_lines import lines_of
from upshot.prefect.text_search import Terms, terms_of

pytestmark = pytest.mark.anyio

RUN = UUID("11111111-1111-1111-1111-111111111111")


def line(message: str = "hello", **more: Any) -> dict[str, Any]:
    return {
        "name": "prefect.flow_runs",
        "level": 20,
        "message": message,
        "timestamp": "2026-01-01T00:00:00Z",
        "flow_run_id": str(RUN),
        "task_run_id": None,
        **more,
    }


def read(*lines: Any) -> Any:
    return lines_of(msgspec.json.encode(list(lines)))


def dropped() -> float:
    return float(FLOW_LOG_LINES.labels("dropped")._value.get())


async def run_of(api: Api) -> str:
    await api.put("/v1/deployments/d", {"runner": {"type": "pull"}})
    run_id: str = (await api.client.post("/v1/deployments/d/runs", json={})).json()["id"]
    return run_id


async def store(api: Api, *lines: dict[str, Any]) -> None:
    answer = await api.client.post("/api/logs/", json=list(lines))
    assert answer.status_code == 201, answer.text


async def messages(api: Api, **body: Any) -> list[str]:
    answer = await api.client.post("/api/logs/filter", json=body)
    assert answer.status_code == 200, answer.text
    return [one["message"] for one in answer.json()]


def test_a_line_is_read_as_it_is() -> None:
    (found,), dropped = read(line("größe", timestamp="2026-01-01T02:00:00+02:00"))
    assert dropped == 0
    assert found.run_id == RUN
    assert found.at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (found.level, found.name, found.message) == (20, "prefect.flow_runs", "größe")


def test_lines_of_no_run_are_counted() -> None:
    assert read(line(flow_run_id=None), line()) == (read(line())[0], 1)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (rb"a\u0000b", "a\ufffdb"),
        (rb"a\ud800b", "a\ufffdb"),
        (rb"a\udfffb\u0000", "a\ufffdb\ufffd"),
        (rb"\ud83d\ude00", "\U0001f600"),
        (rb"\ud83d\ude00\ud83d", "\U0001f600\ufffd"),
        (b"a\xffb", "a\ufffdb"),
        (b"a\tb", "a\tb"),
    ],
)
def test_characters_that_cannot_be_kept_cost_no_line(written: bytes, kept: str) -> None:
    body = msgspec.json.encode([line("before"), line("MARK"), line("after")])
    lines, _ = lines_of(body.replace(b"MARK", written))
    assert [one.message for one in lines] == ["before", kept, "after"]


def test_a_message_that_is_too_long_is_cut_and_says_so() -> None:
    (found,), _ = read(line("m" * (LOG_MESSAGE_CHARS_MAX + 5)))
    assert found.message.startswith("m" * LOG_MESSAGE_CHARS_MAX + "...")
    assert "5 more characters" in found.message


@pytest.mark.parametrize(
    "wrong",
    [
        {"timestamp": "yesterday"},
        {"timestamp": "2026-01-01T00:00:00"},
        {"timestamp": "0001-01-01T00:00:00+14:00"},
        {"timestamp": 10**30},
        {"level": "INFO"},
        {"level": 10**9},
        {"message": None},
        {"message": 7},
        {"name": []},
        {"flow_run_id": "nobody"},
        {"task_run_id": 1},
    ],
)
def test_a_line_that_is_none_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=r"\$\[(1|\.\.\.)\]"):
        read(line(), line(**wrong))


@pytest.mark.parametrize("body", [b"", b"[", b'[{"x":' + b"[" * 100_000, b"\xff", b'["\\ud800"'])
def test_a_body_that_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        lines_of(body)


@pytest.mark.parametrize("body", [b"{}", b"null", b"7", b'"a"', b"[7]", b'["\\ud800"]', b"[NaN]"])
def test_a_body_that_is_no_list_of_lines_is_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        lines_of(body)


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("", Terms()),
        ("  ", Terms()),
        ("error", Terms(either=("error",))),
        ("error warning", Terms(either=("error", "warning"))),
        ("+order -debug !trace", Terms(all_of=("order",), none_of=("debug", "trace"))),
        ('"timed out" +"a b"', Terms(either=("timed out",), all_of=("a b",))),
        (r'"say \"hi\""', Terms(either=('say "hi"',))),
        ('"never closed', Terms(either=("never closed",))),
        ("a-b", Terms(either=("a-b",))),
        ('""', Terms()),
    ],
)
def test_what_is_typed_becomes_terms(query: str, terms: Terms) -> None:
    assert terms_of(query) == terms


async def test_lines_are_stored_and_answered_in_their_order(api: Api) -> None:
    run_id = await run_of(api)
    lines = [line(f"m{number}", flow_run_id=run_id) for number in range(250)]
    await store(api, *lines)
    wanted = {"flow_run_id": {"any_": [run_id]}}
    first = await messages(api, logs=wanted, limit=200)
    assert first == [f"m{number}" for number in range(200)]
    assert await messages(api, logs=wanted, offset=200) == [f"m{n}" for n in range(200, 250)]
    assert (await messages(api, logs=wanted, sort="TIMESTAMP_DESC", limit=1)) == ["m249"]


async def test_a_line_is_answered_with_what_the_client_reads(api: Api) -> None:
    run_id, task_run_id = await run_of(api), str(uuid4())
    await store(api, line(flow_run_id=run_id, task_run_id=task_run_id))
    (found,) = (await api.client.post("/api/logs/filter", json={})).json()
    assert UUID(found.pop("id"))
    assert found == {
        "created": "2026-01-01T00:00:00Z",
        "updated": "2026-01-01T00:00:00Z",
        **line(flow_run_id=run_id, task_run_id=task_run_id),
    }


async def test_lines_of_unknown_runs_are_left_and_counted(api: Api) -> None:
    run_id = await run_of(api)
    before = dropped()
    await store(api, line("lost"), line("kept", flow_run_id=run_id), line(flow_run_id=None))
    assert await messages(api) == ["kept"]
    assert dropped() == before + 2


async def test_what_a_flow_prints_is_never_the_end_of_a_batch(api: Api) -> None:
    run_id = await run_of(api)
    body = msgspec.json.encode([line("MARK", flow_run_id=run_id), line("b", flow_run_id=run_id)])
    answer = await api.client.post(
        "/api/logs/",
        content=body.replace(b"MARK", rb"a\u0000\ud800"),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 201
    assert await messages(api) == ["a\ufffd\ufffd", "b"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["debug", "order error", "payment 100% error"]),
        ({"level": {"ge_": 20}}, ["order error", "payment 100% error"]),
        ({"level": {"le_": 20}}, ["debug", "order error"]),
        ({"level": {"ge_": 20, "le_": 20}}, ["order error"]),
        ({"timestamp": {"after_": "2026-01-01T00:00:02Z"}}, ["order error", "payment 100% error"]),
        ({"timestamp": {"before_": "2026-01-01T00:00:02Z"}}, ["debug", "order error"]),
        ({"text": {"query": "ORDER 100%"}}, ["order error", "payment 100% error"]),
        ({"text": {"query": "+error -100%"}}, ["order error"]),
        ({"task_run_id": {"any_": [str(RUN)]}}, ["debug"]),
        ({"flow_run_id": {"any_": []}}, []),
        (
            {"flow_run_id": {"any_": None}, "level": None},
            ["debug", "order error", "payment 100% error"],
        ),
        (
            {"operator": "or_", "level": {"le_": 10}, "text": {"query": "payment"}},
            ["debug", "payment 100% error"],
        ),
    ],
)
async def test_lines_are_found_by_what_is_wanted(
    api: Api, wanted: dict[str, Any], found: list[str]
) -> None:
    run_id = await run_of(api)
    more = {"flow_run_id": run_id}
    await store(
        api,
        line("payment 100% error", level=40, timestamp="2026-01-01T00:00:03Z", **more),
        line("order error", timestamp="2026-01-01T00:00:02Z", **more),
        line("debug", level=10, timestamp="2026-01-01T00:00:01Z", task_run_id=str(RUN), **more),
    )
    assert await messages(api, logs=wanted) == found
    if "flow_run_id" not in wanted:
        of_run = {"flow_run_id": {"any_": [run_id]}, **wanted}
        if wanted.get("operator") != "or_":
            assert await messages(api, logs=of_run) == found


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 201},
        {"sort": "BEST"},
        {"logs": {"level": {"ge_": 10**12}}},
        {"logs": {"timestamp": {"after_": "yesterday"}}},
        {"logs": {"timestamp": {"after_": 1e300}}},
        {"logs": {"flow_run_id": {"any_": ["a"]}}},
        {"logs": {"text": {"query": "a" * 201}}},
        {"logs": 7},
    ],
)
async def test_a_filter_that_is_wrong_is_refused(api: Api, body: dict[str, Any]) -> None:
    assert (await api.client.post("/api/logs/filter", json=body)).status_code == 422


async def test_the_logs_of_a_run_go_with_it(api: Api) -> None:
    run_id = await run_of(api)
    await store(api, line(flow_run_id=run_id))
    await api.conn.execute("DELETE FROM run_queue")
    await api.conn.execute("DELETE FROM runs")
    assert await messages(api) == []


async def test_a_compressed_body_is_refused_with_what_to_do(api: Api) -> None:
    answer = await api.client.post("/api/logs", content=b"[]", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


async def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    answer = await api.client.post("/api/logs", content=b" " * (4 * 1024 * 1024 + 1))
    assert answer.status_code == 413
