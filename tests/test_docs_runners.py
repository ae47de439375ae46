"""Every example of docs/runners.md runs, and does what the page says."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, assert_never, get_args

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from tests.e2e.server import Server, serving, until
from tests.pages import Page, Shell
from tests.ports import free_port
from tests.receiver import Call, Receiver, reply
from upshot.api.deployments import DeploymentWritten
from upshot.core import limits
from upshot.core.delivery import (
    Accepted,
    Completed,
    Failed,
    Gone,
    Responded,
    TryAgain,
    Verdict,
    judge,
)

pytestmark = pytest.mark.anyio

PAGE = Page("runners.md")
TEXT = PAGE.text
DEFINITIONS = (
    "An endpoint that knows nothing of Upshot",
    "Timeouts and retries",
    "How many at once",
    "Runs of one key",
    "Parameters",
)
"""Where an example is a deployment."""

RUNNER = "127.0.0.1:9000"
RUN = {
    "Runners": {"sh"},
    "A runner that is called": {"sh", "python"},
    "The call": {"json"},
    "The signature": {"sh"},
    "A new secret": {"sh"},
    "Answering first and reporting later": {"sh", "json"},
    "A worker that asks": {"sh"},
    "Claim": {"sh", "json"},
    "Heartbeat": {"sh", "json"},
    "Report": {"sh", "json"},
    "A worker in sh": {"sh"},
    "When a runner is down": {"sh", "json"},
    "Cancel and retry": {"sh", "json"},
    "What a run leaves in the log": {"json"},
    **{heading: {"json"} for heading in DEFINITIONS},
}


def shell(heading: str) -> list[str]:
    return PAGE.examples[heading]["sh"]


def document(heading: str) -> Any:
    (text,) = PAGE.examples[heading]["json"]
    return json.loads(text)


def typed_in(server: Server, directory: Path, *, runner: str = RUNNER) -> Shell:
    """A shell into which the beginning of the page is pasted."""
    (begin,) = shell("Runners")
    return Shell(server.api.http.base_url, directory, begin=begin, change={RUNNER: runner})


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    async with serving(database_url) as server:
        yield server


@asynccontextmanager
async def started(*command: str, cwd: Path, **variables: str) -> AsyncIterator[Process]:
    """A program of the page; it and all that it started are killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **variables}, cwd=cwd,
        stdout=PIPE, stderr=PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


# The page itself.


def test_every_example_is_run_by_a_test() -> None:
    assert {heading: set(of_each) for heading, of_each in PAGE.examples.items()} == RUN


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in PAGE.headings
    }
    linked = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert linked
    assert linked <= anchors


@pytest.mark.parametrize(
    ("said", "bound"),
    [
        (r"A lease lasts (\d+) s", limits.LEASE.total_seconds()),
        (r"`wait` seconds \(at most (\d+)\)", limits.CLAIM_WAIT_MAX.total_seconds()),
        (r"`max` \(1, at most (\d+)\)", limits.CLAIMED_AT_ONCE_MAX),
        (r"any JSON, at most (\d+) KiB", limits.RESULT_BYTES_MAX / limits.KIB),
        (r"first (\d+) KiB of the\s+answer's", limits.RESPONSE_BYTES_KEPT_MAX / limits.KIB),
        (r"more than (\d+) KiB are not", limits.RESPONSE_BYTES_READ_MAX / limits.KIB),
        (r"`timeout` \((\d+) s", limits.RUNNER_TIMEOUT_DEFAULT.total_seconds()),
        (r"s, at most (\d+)\) is for the whole", limits.RUNNER_TIMEOUT_MAX.total_seconds()),
        (r"deployment \((\d+), at most 1,000\)", limits.CONCURRENCY_DEFAULT),
        (r"of at least (\d+) calls", limits.BREAKER_CALLS_MIN),
        (r"(\d+) % or more", limits.BREAKER_FAILED_PERCENT),
        (r"calls within (\d+) minutes", limits.BREAKER_WINDOW.total_seconds() / 60),
        (r"has been the probe (\d+) times", limits.PROBES_FREE_MAX),
        (r"One run every (\d+) s", limits.PROBE_EVERY.total_seconds()),
    ],
)
def test_the_page_tells_the_bounds_as_they_are(said: str, bound: float) -> None:
    found = re.search(said, TEXT)
    assert found is not None
    assert float(found[1]) == bound


def test_the_page_tells_the_waits_of_retries_as_they_are() -> None:
    assert "5 s, 30 s, 5 min, 30 min, 2 h, 5 h and 10 h" in TEXT
    assert limits.RETRIES_DEFAULT == (5, 30, 300, 1_800, 7_200, 18_000, 36_000)
    assert limits.CONCURRENCY_MAX == 1_000


ANSWERS = [
    (int(status), means)
    for statuses, means in PAGE.rows("The answer")
    for status in re.findall(r"\d{3}", statuses)
]


def meaning(verdict: Verdict) -> str:
    match verdict:
        case Completed():
            return "the run is completed"
        case Accepted():
            return "the runner works on"
        case TryAgain():
            return "not now: it is tried again"
        case Gone():
            return "the runner is gone"
        case Failed():
            return "the run has failed"
        case _:
            assert_never(verdict)


def test_the_table_of_answers_has_one_of_every_kind() -> None:
    assert {type(judge(Responded(status))) for status, _ in ANSWERS} == set(get_args(Verdict))


@pytest.mark.parametrize(("status", "means"), ANSWERS)
def test_an_answer_means_what_the_table_says(status: int, means: str) -> None:
    assert means.startswith(meaning(judge(Responded(status))))


def test_the_table_of_overlap_is_complete() -> None:
    kinds = get_args(DeploymentWritten.model_fields["overlap"].annotation)
    _, *told = re.findall(r"`(\w+)`", " ".join(cells[0] for cells in PAGE.rows("Runs of one key")))
    assert told == list(kinds)


# A runner that is called.


async def test_the_runner_in_python_does_a_signed_run_and_refuses_an_unsigned_one(
    server: Server, tmp_path: Path
) -> None:
    port = str(free_port())
    typed = typed_in(server, tmp_path, runner=f"127.0.0.1:{port}")
    made, asked = shell("A runner that is called")
    await typed.say(made + '\nprintf %s "$secret" >secret')
    secret = (tmp_path / "secret").read_text()
    (program,) = PAGE.examples["A runner that is called"]["python"]
    (tmp_path / "runner.py").write_text(program.replace("9000", port))
    async with (
        started(sys.executable, "runner.py", cwd=tmp_path, RUNNER_SECRET=secret) as runner,
        httpx.AsyncClient(trust_env=False) as client,
    ):

        async def unsigned() -> int:
            try:
                answer = await client.post(f"http://127.0.0.1:{port}/run", json={})
            except httpx.TransportError:
                return 0
            return answer.status_code

        assert await until(unsigned) == 401
        (run,) = await typed.run(asked)
        assert runner.stdout is not None
        line = await asyncio.wait_for(runner.stdout.readline(), 20)
        assert line == b"an invoice for user 123\n"
        assert (await server.api.ended(run["id"]))["state"] == "completed"


async def called_once_more(server: Server, runner: Receiver) -> Call:
    """The call of another run of the deployment `invoice`."""
    before = len(runner.calls)
    body = {"parameters": {"user_id": "123"}}
    await server.api.send("POST", "/v1/deployments/invoice/runs", body)
    return (await runner.called(before + 1))[before]


def is_verified(call: Call, secret: str) -> bool:
    try:
        Verifier(secret).verify(call.body, dict(call.headers))
    except WebhookVerificationError:
        return False
    return True


async def test_a_call_is_as_the_page_shows_it_and_openssl_makes_its_signature(
    server: Server, tmp_path: Path
) -> None:
    async with Receiver() as runner:
        typed = typed_in(server, tmp_path, runner=f"127.0.0.1:{runner.port}")
        made, _ = shell("A runner that is called")
        await typed.say(made + '\nprintf %s "$secret" >secret')
        secret = (tmp_path / "secret").read_text()
        call = await called_once_more(server, runner)
    assert list(json.loads(call.body)) == list(document("The call"))
    named = {
        name for cells in PAGE.rows("The call") for name in re.findall(r"`([\w-]+)`", cells[0])
    }
    sent = set(json.loads(call.body)) | set(call.headers)
    assert named - {"member", "header"} <= sent
    (tmp_path / "body.json").write_bytes(call.body)
    (verify,) = shell("The signature")
    signature = await typed.say(
        verify,
        secret=secret,
        webhook_id=call.headers["webhook-id"],
        webhook_timestamp=call.headers["webhook-timestamp"],
    )
    assert call.headers["webhook-signature"] == f"v1,{signature.strip()}"
    assert is_verified(call, secret)


async def test_no_call_is_refused_while_a_secret_is_changed(server: Server, tmp_path: Path) -> None:
    async with Receiver() as runner:
        typed = typed_in(server, tmp_path, runner=f"127.0.0.1:{runner.port}")
        made, _ = shell("A runner that is called")
        await typed.say(made + '\nprintf %s "$secret" >secret')
        old = (tmp_path / "secret").read_text()
        call = await called_once_more(server, runner)
        assert is_verified(call, old)

        both, only_new = shell("A new secret")
        await typed.say(both + '\nprintf %s "$new_secret" >new_secret', secret=old)
        new = (tmp_path / "new_secret").read_text()
        assert not is_verified(call, new)
        call = await called_once_more(server, runner)
        assert is_verified(call, old)
        assert is_verified(call, new)

        (deployment,) = await typed.run(only_new, new_secret=new)
        assert deployment["runner"]["secret"] == "***"
        call = await called_once_more(server, runner)
        assert is_verified(call, new)
        assert not is_verified(call, old)


async def test_a_runner_that_answers_202_reports_later(server: Server, tmp_path: Path) -> None:
    async with Receiver(reply(202)) as runner:
        typed = typed_in(server, tmp_path)
        await server.api.deploy("invoice", runner.url)
        call = json.loads((await called_once_more(server, runner)).body)
        await server.api.in_state(call["run_id"], "running")
        (report,) = shell("Answering first and reporting later")
        (answer,) = await typed.run(report, run_id=call["run_id"], lease=call["lease"])
        assert answer == document("Answering first and reporting later")
        run = await server.api.get(f"/v1/runs/{call['run_id']}")
    assert (run["state"], run["result"]) == ("completed", {"invoice": 7})


async def test_the_examples_of_deployments_are_accepted(server: Server) -> None:
    for heading in DEFINITIONS:
        written = document(heading)
        made = await server.api.send("PUT", "/v1/deployments/example", written)
        assert {name: made[name] for name in written if name not in _IN_OTHER_WORDS} == {
            name: value for name, value in written.items() if name not in _IN_OTHER_WORDS
        }


_IN_OTHER_WORDS = ("runner", "run_timeout")
"""What is answered with durations in seconds, and with its defaults."""


# A worker that asks.


async def test_a_run_is_claimed_kept_and_reported_with_curl(server: Server, tmp_path: Path) -> None:
    typed = typed_in(server, tmp_path)
    (made,) = shell("A worker that asks")
    _, asked = await typed.run(made)
    (claimed,) = await typed.run(*shell("Claim"))
    (run,) = claimed["items"]
    (shown,) = document("Claim")["items"]
    assert list(run) == list(shown)
    assert run["parameters"] == shown["parameters"]
    assert run["run_id"] == asked["id"]
    mine = {"run_id": run["run_id"], "lease": run["lease"]}

    (kept,) = await typed.run(*shell("Heartbeat"), **mine)
    assert kept["lease_until"] > run["lease_until"]
    assert {**kept, "lease_until": None} == {**document("Heartbeat"), "lease_until": None}

    completed, failed, released = shell("Report")
    for give_back in (released, failed):
        (given,) = await typed.run(give_back, **mine)
        assert given["state"] == "retrying"
        await server.api.send("POST", f"/v1/runs/{run['run_id']}/retry")
        (claimed,) = await typed.run(*shell("Claim"))
        mine["lease"] = claimed["items"][0]["lease"]
    (reported,) = await typed.run(completed, **mine)
    assert reported == document("Report")
    run = await server.api.get(f"/v1/runs/{run['run_id']}")
    assert (run["state"], run["result"]) == ("completed", {"rows": 12})


async def test_a_worker_in_sh_does_what_is_asked(server: Server, tmp_path: Path) -> None:
    async with sh_worker(server, tmp_path) as worker:
        assert worker.stderr is not None
        for user in ("123", "456"):
            run_id = await ask_for_report(server, user)
            run = await server.api.ended(run_id)
            assert (run["state"], run["result"]) == ("completed", {"report_for": user})
            assert await worker.stderr.readline() == f"a report for user {user}\n".encode()
        run = await server.api.ended(await ask_for_report(server, 'say "hello"'))
        assert (run["state"], run["error"]) == ("failed", "the result was refused")


async def test_a_worker_in_sh_stops_when_its_run_is_cancelled_and_goes_on_with_the_next(
    server: Server, tmp_path: Path
) -> None:
    # Heartbeats are quicker, and the report for one user takes a while.
    changes = {
        "sleep 10": "sleep 0.2",
        'echo "a report': '[ "$user" != slow ] || sleep 600; echo "',
    }
    async with sh_worker(server, tmp_path, changes=changes):
        slow = await ask_for_report(server, "slow")
        await server.api.in_state(slow, "running")
        cancel, retry, again = shell("Cancel and retry")
        typed = typed_in(server, tmp_path)
        (cancelled,) = await typed.run(cancel, run_id=slow)
        assert cancelled["state"] == "cancelled"
        run = await server.api.ended(await ask_for_report(server, "123"))
        assert run["state"] == "completed"
        assert (await server.api.get(f"/v1/runs/{slow}"))["state"] == "cancelled"

        (retried,) = await typed.run(retry, run_id=slow)
        assert (retried["id"], retried["state"]) == (slow, "scheduled")
        await server.api.in_state(slow, "running")
        assert await typed.run(again) == [document("Cancel and retry")]


@asynccontextmanager
async def sh_worker(
    server: Server, directory: Path, *, changes: dict[str, str] | None = None
) -> AsyncIterator[Process]:
    """`worker.sh`, at work for the deployment `report`."""
    await server.api.send("PUT", "/v1/deployments/report", {"runner": {"type": "pull"}})
    (program,) = shell("A worker in sh")
    for old, new in (changes or {}).items():
        assert old in program
        program = program.replace(old, new)
    (directory / "worker.sh").write_text(program)
    url = str(server.api.http.base_url)
    there = {"UPSHOT_API_URL": url, "TMPDIR": str(directory)}
    async with started("sh", "worker.sh", cwd=directory, **there) as worker:
        yield worker


async def ask_for_report(server: Server, user: str) -> str:
    body = {"parameters": {"user_id": user}}
    run = await server.api.send("POST", "/v1/deployments/report/runs", body)
    return str(run["id"])


# What holds for both.


async def test_a_breaker_is_shown_as_the_page_says_and_reset(
    server: Server, tmp_path: Path
) -> None:
    await server.api.deploy("invoice", "http://127.0.0.1:9/run")
    shown = await server.api.get("/v1/deployments/invoice")
    assert set(shown["breaker"]) == set(document("When a runner is down")["breaker"])
    (reset,) = shell("When a runner is down")
    (deployment,) = await typed_in(server, tmp_path).run(reset)
    assert deployment["name"] == "invoice"


async def test_a_run_that_completes_lets_the_next_deployment_run(
    server: Server, tmp_path: Path
) -> None:
    async with Receiver() as report, Receiver() as invoice:
        await server.api.deploy("report", report.url)
        await server.api.deploy("invoice", invoice.url)
        chained = document("What a run leaves in the log")
        await server.api.send("PUT", "/v1/triggers/invoice-after-report", chained)
        await server.api.trigger(
            "report", deployment="report", expect=["order.complete"], for_each=["id"]
        )
        await server.api.post({"event": "order.complete", "resource": {"id": "123"}})
        (call,) = await invoice.called()
    assert json.loads(call.body)["parameters"] == {"user_id": "123"}
