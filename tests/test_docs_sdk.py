"""Every example of docs/sdk.md runs, and does what the page says."""

import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.pages import Page
from tests.ports import free_port
from tests.sdk.fake import FakeServer
from tests.sdk.servers import Program, program
from tests.sdk.test_webhook import SECRET, called, signed
from upshot.core.language import read_trigger
from upshot.sdk import limits

pytestmark = pytest.mark.anyio

PAGE = Page("sdk.md")
EXAMPLES = Path(__file__).parents[1] / "examples" / "shop"
RUN = {
    "Thirty seconds": 2,
    "Triggers": 1,
    "Deployments": 1,
    "Serving": 1,
    "A webhook instead": 2,
    "Emitting events": 1,
}


def example(heading: str, place: int = 0) -> str:
    return PAGE.examples[heading]["python"][place]


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


def test_every_example_is_run_by_a_test() -> None:
    assert {heading: len(of_each["python"]) for heading, of_each in PAGE.examples.items()} == RUN
    assert {language for of_each in PAGE.examples.values() for language in of_each} == {"python"}


def test_every_link_leads_to_a_heading() -> None:
    for page, anchor in re.findall(r"\]\(([a-z]*(?:\.md)?)#([^)]+)\)", PAGE.text):
        headings = Page(page).headings if page else PAGE.headings
        anchors = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}
        assert anchor in anchors


def test_the_two_files_of_the_page_are_those_of_the_examples() -> None:
    files = [(EXAMPLES / name).read_text() for name in ("worker.py", "app.py")]
    assert files == [example("Thirty seconds", 0), example("Thirty seconds", 1)]


@pytest.mark.parametrize(
    ("said", "bound"),
    [
        (r"waits there for up to (\d+) s", limits.CLAIM_WAIT_SECONDS),
        (r"At most `limit` \((\d+)\)", limits.RUNS_AT_ONCE_DEFAULT),
        (r"is renewed every (\d+) s", limits.HEARTBEAT_SECONDS),
        (r"the last ([\d,]+) are remembered", limits.OUTCOMES_REMEMBERED_MAX),
        (r"`stop_within`\s+seconds \((\d+)\)", limits.STOP_SECONDS_DEFAULT),
        (r"up to (\d+) KiB", limits.RESULT_BYTES_MAX // limits.KIB),
        (r"up to (\d+) events a request", limits.EVENTS_PER_REQUEST_MAX),
        (r"`Unreachable` after (\d+) s", limits.STORED_WITHIN_SECONDS_MAX),
        (r"is sent for up to (\d+) s", limits.FLUSH_AT_EXIT_SECONDS_MAX),
        (r"The queue holds ([\d,]+) events", limits.EVENTS_QUEUED_MAX),
        (r"events \((\d+) MiB\)", limits.BYTES_QUEUED_MAX // limits.MIB),
        (r"more than (\d+) KiB", limits.EVENT_BYTES_MAX // limits.KIB),
    ],
)
def test_a_number_on_the_page_is_that_of_the_code(said: str, bound: float) -> None:
    (number,) = re.findall(said, PAGE.text)
    assert float(number.replace(",", "")) == bound


def test_the_triggers_are_ones_that_the_server_takes() -> None:
    names: dict[str, Any] = {}
    exec(example("Triggers"), names)
    written = ("not_shipped", "big_orders", "both_arrived", "tried_then_bought")
    taken = [
        read_trigger(names[name].document(deployment="d", managed_by="managed_by:d"))
        for name in written
    ]
    assert [trigger.type for trigger in taken] == ["event", "event", "compound", "sequence"]


async def started(fake: FakeServer, running: Program) -> None:
    await running.said("serving ")
    for document in fake.triggers.values():
        read_trigger({name: value for name, value in document.items() if name != "name"})


async def test_the_deployments_are_served(fake: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "billing.py"
    file.write_text(example("Deployments"))
    async with program(file, url=fake.url) as running:
        await started(fake, running)
        assert set(fake.deployments) == {"invoice", "restock"}
        parameters = {
            "order_id": "7",
            "lines": [{"sku": "a", "count": 2}, {"sku": "b"}],
            "due": "2026-02-01",
        }
        invoice = await fake.ended(await fake.offer("invoice", parameters))
        assert invoice["result"] == {"order": "7", "due": "2026-02-01", "items": 3}
        restock = await fake.ended(await fake.offer("restock", {"sku": "a"}))
        assert restock["result"] == "ordered a"
        wrong = await fake.ended(await fake.offer("invoice", {**parameters, "due": "soon"}))
        assert "due: Input should be a valid date" in wrong["error"]
        assert await running.end(signal.SIGTERM) == 0


async def test_a_plain_function_sees_its_run(fake: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "export.py"
    file.write_text(example("Serving"))
    async with program(file, url=fake.url) as running:
        await started(fake, running)
        run = await fake.offer("export", {"rows": 2}, trigger="nightly")
        assert (await fake.ended(run))["result"] == 2
        await running.said(f"run {run}, attempt 1, of nightly")


async def test_the_webhook_is_served(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, port = tmp_path / "thumbnail.py", free_port()
    file.write_text(example("A webhook instead").replace("port=9000", f"port={port}"))
    monkeypatch.setenv("UPSHOT_WEBHOOK_SECRET", SECRET)
    async with program(file, url=fake.url) as running:
        await started(fake, running)
        runner = fake.deployments["thumbnail"]["runner"]
        assert runner["url"] == f"http://127.0.0.1:{port}/"
        body = called("thumbnail", run_id="a", parameters={"image": "cat"})
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(runner["url"], content=body, headers=signed(body))
        assert answer.status_code == 202
        assert (await fake.ended("a"))["result"] == "cat.small"
        assert await running.end(signal.SIGTERM) == 0


async def test_the_endpoint_is_mounted(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSHOT_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("UPSHOT_API_URL", fake.url)
    names: dict[str, Any] = {"__name__": "example"}
    exec(example("A webhook instead", 1), names)
    body = called("greet", run_id="a", parameters={"name": "you"})
    transport = httpx.ASGITransport(names["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        answer = await http.post("/upshot/", content=body, headers=signed(body))
    assert answer.status_code == 202
    assert (await fake.ended("a"))["result"] == "Hello, you!"


async def test_the_events_are_emitted(fake: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "emit.py"
    file.write_text(example("Emitting events"))
    async with program(file, url=fake.url) as running:
        assert await running.end() == 0
    events = [event for post in fake.posts for event in post]
    assert [event["event"] for event in events] == [
        "order.created",
        "order.paid",
        "order.complete",
    ]
    assert events[1]["follows"] == events[0]["id"]
