"""Calls a real receiver that answers, misbehaves or is not there."""

import asyncio
import gzip
import json
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.receiver import (
    Behaviour,
    Peer,
    Receiver,
    drip,
    drop,
    flood,
    gzip_bomb,
    hang,
    reply,
)
from upshot import __version__
from upshot.core.delivery import (
    Attempt,
    Method,
    Refused,
    Responded,
    TimedOut,
    Unreached,
    Webhook,
)
from upshot.core.limits import RESPONSE_BYTES_KEPT_MAX
from upshot.core.networks import NetworkPolicy
from upshot.pipeline.call import Caller

RUN = UUID("0190aaaa-0000-7000-8000-000000000001")
BODY = b'{"parameters": {"user_id": "123"}}'
AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SECRET = "whsec_" + "A" * 32
OTHER_SECRET = "whsec_" + "B" * 32
MIB = 2**20
ENDLESS = 300 * MIB
SOON = timedelta(seconds=0.3)
LONG = timedelta(seconds=10)


@asynccontextmanager
async def calling(networks: str = "private,loopback,public") -> AsyncIterator[Caller]:
    async with Caller(networks=NetworkPolicy.parse(networks)) as caller:
        yield caller


async def call(caller: Caller, webhook: Webhook, *, at: datetime = AT) -> Attempt:
    return await caller.call(webhook, run_id=RUN, body=BODY, at=at)


def attempt(*script: Behaviour, timeout: timedelta = LONG) -> Attempt:
    """One call to a receiver that behaves like this."""

    async def scene() -> Attempt:
        async with Receiver(*script) as receiver, calling() as caller:
            return await call(caller, Webhook(receiver.url, timeout=timeout))

    return asyncio.run(scene())


def attempt_at(
    url: str, *, networks: str = "private,loopback,public", timeout: timedelta = LONG
) -> Attempt:
    """One call to somewhere that is no receiver."""

    async def scene() -> Attempt:
        async with calling(networks) as caller:
            return await call(caller, Webhook(url, timeout=timeout))

    return asyncio.run(scene())


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that is taken and not listened on: a connection to it is refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue is full, so that a connection to it never comes about."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


# What is sent.


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_the_runner_says_by_which_method_it_is_called(method: Method) -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling() as caller:
            webhook = Webhook(receiver.url, secrets=(SECRET,), method=method)
            now = datetime.now(UTC)
            made = await caller.call(webhook, run_id=RUN, body=b"a", media_type="text/x", at=now)
            [sent] = receiver.calls
        assert made.status == 200
        assert (sent.method, sent.path, sent.body) == (method, "/run", b"a")
        assert sent.headers["content-type"] == "text/x"
        assert "v1," in sent.headers["webhook-signature"]

    asyncio.run(scene())


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_nothing_is_said_of_a_body_that_there_is_not(method: Method) -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling() as caller:
            webhook = Webhook(receiver.url, method=method)
            await caller.call(webhook, run_id=RUN, body=b"", media_type=None, at=AT)
            own = Webhook(receiver.url, method=method, headers={"Content-Type": "text/y"})
            await caller.call(own, run_id=RUN, body=b"", media_type=None, at=AT)
            without, with_own = receiver.calls
        assert (without.method, without.body, with_own.body) == (method, b"", b"")
        assert "content-type" not in without.headers
        assert with_own.headers["content-type"] == "text/y"
        assert without.headers["idempotency-key"] == str(RUN)

    asyncio.run(scene())


def test_a_call_is_a_signed_json_post_with_the_users_headers() -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling() as caller:
            webhook = Webhook(
                f"{receiver.url}?a=b%2Fc",
                headers={"Authorization": "Bearer x"},
                secrets=(SECRET, OTHER_SECRET),
            )
            await call(caller, webhook, at=datetime.now(UTC))
            [sent] = receiver.calls
        assert (sent.method, sent.path, sent.body) == ("POST", "/run?a=b%2Fc", BODY)
        for secret in webhook.secrets:
            assert Verifier(secret).verify(sent.body, dict(sent.headers)) == json.loads(BODY)
        assert sent.headers["webhook-id"] == sent.headers["idempotency-key"] == str(RUN)
        assert sent.headers["authorization"] == "Bearer x"
        assert sent.headers["content-type"] == "application/json"
        assert sent.headers["user-agent"] == f"upshot/{__version__}"
        assert sent.headers["accept-encoding"] == "identity"

    asyncio.run(scene())


def test_without_a_secret_there_is_no_signature() -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling() as caller:
            await call(caller, Webhook(receiver.url))
            [sent] = receiver.calls
        assert "webhook-signature" not in sent.headers
        assert sent.headers["webhook-timestamp"] == str(int(AT.timestamp()))

    asyncio.run(scene())


def test_the_user_may_name_another_agent_and_content_type() -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling() as caller:
            headers = {"User-Agent": "shop", "Content-Type": "application/json; charset=utf-8"}
            await call(caller, Webhook(receiver.url, headers=headers))
            [sent] = receiver.calls
        assert sent.headers["user-agent"] == "shop"
        assert sent.headers["content-type"] == "application/json; charset=utf-8"

    asyncio.run(scene())


def test_a_proxy_in_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch, dead_port: int
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{dead_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert attempt().status == 200


def test_cookies_of_one_answer_are_not_sent_with_the_next_call() -> None:
    async def scene() -> None:
        script = reply(200, headers={"set-cookie": "a=b; Path=/"})
        async with Receiver(script) as receiver, calling() as caller:
            url = receiver.url.replace("127.0.0.1", "localhost")
            for _ in range(2):
                await call(caller, Webhook(url))
            assert ["cookie" in sent.headers for sent in receiver.calls] == [False, False]

    asyncio.run(scene())


# What is answered.


@pytest.mark.parametrize("status", [200, 202, 204, 302, 404, 410, 429, 500, 599])
def test_every_status_is_an_answer(status: int) -> None:
    made = attempt(reply(status))
    assert made.answer == Responded(status)
    assert made.started_at == AT
    assert made.duration < LONG


def test_retry_after_is_read_from_seconds_and_from_dates() -> None:
    waits = [
        attempt(reply(429, headers={"Retry-After": value})).answer
        for value in ("7", "Sun, 01 Mar 2026 11:00:00 GMT", "soon")
    ]
    assert waits == [
        Responded(429, timedelta(seconds=7)),
        Responded(429, timedelta(0)),
        Responded(429, None),
    ]


def test_a_date_in_retry_after_counts_from_when_the_answer_came() -> None:
    async def scene() -> Attempt:
        seconds = iter(range(0, 1_000, 10))  # Each look at this clock is ten seconds later.
        later = "Sun, 01 Mar 2026 12:01:00 GMT"
        async with (
            Receiver(reply(503, headers={"Retry-After": later})) as receiver,
            Caller(
                networks=NetworkPolicy.parse("loopback"), clock=lambda: float(next(seconds))
            ) as caller,
        ):
            return await call(caller, Webhook(receiver.url))

    made = asyncio.run(scene())
    assert made.answer == Responded(503, timedelta(seconds=50))
    assert made.duration == timedelta(seconds=20)


def test_a_redirect_is_not_followed() -> None:
    async def scene() -> None:
        async with Receiver() as elsewhere, calling() as caller:
            script = reply(307, headers={"location": elsewhere.url})
            async with Receiver(script) as receiver:
                made = await call(caller, Webhook(receiver.url))
            assert made.status == 307
            assert elsewhere.calls == []

    asyncio.run(scene())


def test_the_beginning_of_the_response_is_kept() -> None:
    assert attempt(reply(200, b'{"ok": "\xc3\xa9"}')).response_text == '{"ok": "é"}'
    long = attempt(reply(500, b"x" * 50_000))
    assert long.response_text == "x" * RESPONSE_BYTES_KEPT_MAX


def test_a_response_of_any_bytes_becomes_text_that_can_be_stored() -> None:
    assert attempt(reply(200, b"a\0b\xffc")).response_text == "a\ufffdb\ufffdc"
    cut = "é" * RESPONSE_BYTES_KEPT_MAX
    assert attempt(reply(200, b"x" + cut.encode())).response_text == "x" + cut[:2_047]
    assert attempt(reply(200, b"x\xc3")).response_text == "x\ufffd"


def test_a_response_is_kept_as_sent_and_not_unpacked() -> None:
    packed = gzip.compress(b"hello")
    made = attempt(reply(200, packed, headers={"content-encoding": "gzip"}))
    assert made.response_text != "hello"
    assert made.status == 200


@pytest.mark.parametrize(
    "behave", [gzip_bomb(total_bytes=ENDLESS), flood(total_bytes=ENDLESS)], ids=["gzip", "flood"]
)
def test_too_long_a_response_is_cut_off_and_its_status_counts(behave: Behaviour) -> None:
    async def scene() -> None:
        async with Receiver(behave) as receiver, calling() as caller:
            tracemalloc.start()
            try:
                made = await call(caller, Webhook(receiver.url, timeout=LONG))
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert made.status == 200
            assert peak < 4 * MIB
            await receiver.left_alone()
            assert receiver.bytes_sent < 32 * MIB

    asyncio.run(scene())


# What goes wrong.


def test_a_runner_that_hangs_is_given_up_at_the_deadline() -> None:
    async def scene() -> None:
        async with Receiver(hang()) as receiver, calling() as caller:
            made = await call(caller, Webhook(receiver.url, timeout=SOON))
            await receiver.left_alone()
        assert made.answer == TimedOut("no answer within 0.3 s")
        assert SOON <= made.duration < SOON * 5

    asyncio.run(scene())


def test_a_runner_that_drips_is_given_up_at_the_deadline() -> None:
    async def scene() -> None:
        async with Receiver(drip()) as receiver, calling() as caller:
            made = await call(caller, Webhook(receiver.url, timeout=SOON))
            await receiver.left_alone()
        assert made.answer == TimedOut("HTTP 200, but no end of it within 0.3 s")
        assert SOON <= made.duration < SOON * 5

    asyncio.run(scene())


def test_a_runner_that_accepts_no_connection_is_given_up_at_the_deadline(full_port: int) -> None:
    made = attempt_at(f"http://127.0.0.1:{full_port}/", timeout=SOON)
    assert made.answer == TimedOut("no answer within 0.3 s")


def test_the_deadline_is_one_for_both_sends_of_a_call() -> None:
    async def scene() -> None:
        async with Receiver(reply(), drop(), drip()) as receiver, calling() as caller:
            await call(caller, Webhook(receiver.url))
            made = await call(caller, Webhook(receiver.url, timeout=SOON))
            assert len(receiver.calls) == 3
        assert isinstance(made.answer, TimedOut)
        assert made.duration < SOON * 5

    asyncio.run(scene())


def test_a_closed_port_is_an_error_that_says_so(dead_port: int) -> None:
    made = attempt_at(f"http://127.0.0.1:{dead_port}/run?token=hush")
    assert isinstance(made.answer, Unreached)
    assert f"127.0.0.1:{dead_port}" in made.answer.error
    assert "refused" in made.answer.error.lower()
    assert "hush" not in made.answer.error


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'a' * 64}.invalid", "a..b"])
def test_a_name_without_address_is_an_error_that_says_so(host: str) -> None:
    made = attempt_at(f"http://{host}/run?token=hush")
    assert isinstance(made.answer, Unreached)
    assert made.answer.error.startswith(f"no address for {host}: ")
    assert "hush" not in made.answer.error


def test_a_name_that_nobody_answers_for_costs_its_deadline_and_delays_no_other_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered, look_up = threading.Event(), socket.getaddrinfo

    def look_up_slowly(host: str, *rest: Any) -> Any:
        if host == "slow.invalid":
            answered.wait(10)
        return look_up(host, *rest)

    async def scene() -> None:
        async with Receiver() as receiver, calling() as caller:
            slow = [Webhook(f"http://slow.invalid:{port}/", timeout=SOON) for port in range(1, 17)]
            tasks = [asyncio.create_task(call(caller, webhook)) for webhook in slow]
            by_name = receiver.url.replace("127.0.0.1", "localhost")
            assert (await call(caller, Webhook(by_name, timeout=SOON))).status == 200
            assert {type(made.answer) for made in await asyncio.gather(*tasks)} == {TimedOut}
            answered.set()

    monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
    try:
        asyncio.run(scene())
    finally:
        answered.set()


def test_https_to_a_plain_http_port_is_a_tls_error() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scene() -> Attempt:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server, calling() as caller:
            port = server.sockets[0].getsockname()[1]
            return await call(caller, Webhook(f"https://127.0.0.1:{port}/"))

    made = asyncio.run(scene())
    assert isinstance(made.answer, Unreached)
    assert made.answer.error.startswith("TLS with 127.0.0.1: ")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 20",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\0\0\0\0",
        b"HTTP/1.1 abc Whatever\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 2_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 200_000 + b"\r\n\r\n",
        b"\xff" * 10_000,
    ],
)
def test_what_is_not_a_whole_http_answer_is_an_error(sent: bytes) -> None:
    made = attempt(drop(sent))
    assert isinstance(made.answer, Unreached)
    assert 0 < len(made.answer.error) <= 300
    assert made.answer.error.isprintable()


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    made = attempt(drop(b"HTTP/1.1 200 OK\r\n\r\nhello"))
    assert made.answer == Responded(200, text="hello")


def test_an_informational_answer_is_not_the_answer() -> None:
    sent = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"
    assert attempt(drop(sent)).status == 201


def test_a_body_that_breaks_off_is_named_with_its_status() -> None:
    made = attempt(drop(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"))
    assert made.error == "HTTP 200, but its body broke off"


def test_a_connection_that_is_reset_is_named() -> None:
    async def reset(peer: Peer) -> None:
        peer.reset()

    made = attempt(reset)
    assert made.error == "the connection broke: Connection reset by peer"


def test_cancelling_a_call_passes_through_and_hangs_up() -> None:
    async def scene() -> None:
        async with Receiver(hang()) as receiver, calling() as caller:
            task = asyncio.create_task(call(caller, Webhook(receiver.url)))
            await receiver.called()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await receiver.left_alone()

    asyncio.run(scene())


# Connections.


def test_a_connection_is_used_again() -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling() as caller:
            for _ in range(3):
                await call(caller, Webhook(receiver.url))
            assert [sent.connection for sent in receiver.calls] == [1, 1, 1]

    asyncio.run(scene())


def test_a_used_connection_that_is_closed_meanwhile_costs_no_attempt() -> None:
    async def scene() -> None:
        async with Receiver(reply(), drop(), reply(201)) as receiver, calling() as caller:
            await call(caller, Webhook(receiver.url, secrets=(SECRET,)))
            made = await call(caller, Webhook(receiver.url, secrets=(SECRET,)))
            assert made.answer == Responded(201)
            _, dropped, answered = receiver.calls
        assert dropped.connection != answered.connection
        assert dropped.headers["webhook-signature"] == answered.headers["webhook-signature"]
        assert dropped.headers["idempotency-key"] == answered.headers["idempotency-key"]

    asyncio.run(scene())


def test_a_call_is_sent_twice_at_most() -> None:
    async def scene() -> None:
        async with Receiver(reply(), drop()) as receiver, calling() as caller:
            await call(caller, Webhook(receiver.url))
            made = await call(caller, Webhook(receiver.url))
            assert isinstance(made.answer, Unreached)
            assert len(receiver.calls) == 3

    asyncio.run(scene())


def test_a_new_connection_that_is_closed_is_a_failed_attempt() -> None:
    async def scene() -> None:
        async with Receiver(drop()) as receiver, calling() as caller:
            made = await call(caller, Webhook(receiver.url))
            assert isinstance(made.answer, Unreached)
            assert len(receiver.calls) == 1

    asyncio.run(scene())


def test_an_answer_that_breaks_off_is_not_asked_for_again() -> None:
    async def scene() -> None:
        broken = drop(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort")
        async with Receiver(reply(), broken) as receiver, calling() as caller:
            await call(caller, Webhook(receiver.url))
            made = await call(caller, Webhook(receiver.url))
            assert isinstance(made.answer, Unreached)
            assert len(receiver.calls) == 2

    asyncio.run(scene())


def test_many_calls_run_at_the_same_time() -> None:
    async def scene() -> None:
        async with Receiver(hang()) as receiver, calling() as caller:
            webhook = Webhook(receiver.url, timeout=LONG)
            tasks = [asyncio.create_task(call(caller, webhook)) for _ in range(150)]
            await receiver.called(150)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scene())


# What is not called.


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"])
def test_a_metadata_address_in_the_url_is_refused(host: str) -> None:
    made = attempt_at(f"http://{host}/latest/meta-data", timeout=SOON)
    assert isinstance(made.answer, Refused)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0x7f.1", "0x7f000001", "[::ffff:127.0.0.1]", "[::1]"]
)
def test_where_loopback_is_denied_no_way_of_writing_it_gets_through(host: str) -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling("public,private") as caller:
            made = await call(caller, Webhook(f"http://{host}:{receiver.port}/"))
            assert isinstance(made.answer, Refused)
            assert "loopback" in made.answer.error
            assert receiver.connections == 0

    asyncio.run(scene())


@pytest.mark.parametrize("host", ["127.1", "2130706433", "017700000001"])
def test_an_address_in_an_old_form_is_refused_everywhere(host: str) -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling() as caller:
            made = await call(caller, Webhook(f"http://{host}:{receiver.port}/"))
            assert isinstance(made.answer, Refused)
            assert receiver.connections == 0

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("addresses", "kind"),
    [
        (["10.0.0.1", "169.254.169.254"], Refused),
        (["169.254.169.254", "127.0.0.1"], Responded),
    ],
)
def test_of_a_names_addresses_only_those_that_are_allowed_are_called(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], kind: type[Refused | Responded]
) -> None:
    def look_up(_: str, port: int, *__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
        ]

    async def scene() -> None:
        async with Receiver() as receiver, calling("public,loopback") as caller:
            monkeypatch.setattr(socket, "getaddrinfo", look_up)
            made = await call(caller, Webhook(f"http://rebound.example:{receiver.port}/"))
            assert isinstance(made.answer, kind)

    asyncio.run(scene())


def test_a_network_that_is_listed_is_called() -> None:
    async def scene() -> None:
        async with Receiver() as receiver, calling("127.0.0.1/32") as caller:
            by_name = receiver.url.replace("127.0.0.1", "localhost")
            for url in (receiver.url, by_name):
                assert (await call(caller, Webhook(url))).status == 200

    asyncio.run(scene())


@pytest.mark.parametrize(
    "webhook",
    [
        Webhook("ftp://127.0.0.1/"),
        Webhook("http://127.0.0.1:x/"),
        Webhook("http://127.0.0.1/", headers={"X-A": "b\r\nX-C: hush"}),
        Webhook("http://127.0.0.1/", headers={"Transfer-Encoding": "chunked"}),
        Webhook("http://127.0.0.1/", secrets=("hush",)),
    ],
)
def test_a_runner_that_should_not_have_been_saved_is_refused(webhook: Webhook) -> None:
    async def scene() -> Attempt:
        async with calling() as caller:
            return await call(caller, webhook)

    made = asyncio.run(scene())
    assert isinstance(made.answer, Refused)
    assert "hush" not in made.answer.error


# The other event loop.


@pytest.mark.parametrize(
    ("behave", "kind"),
    [(reply(), Responded), (drop(), Unreached), (hang(), TimedOut), (drop(b"junk"), Unreached)],
)
def test_it_is_the_same_under_uvloop(
    behave: Behaviour, kind: type[Responded | Unreached | TimedOut]
) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scene() -> Attempt:
        async with Receiver(behave) as receiver, calling() as caller:
            return await call(caller, Webhook(receiver.url, timeout=SOON))

    run: Callable[[Coroutine[Any, Any, Attempt]], Attempt] = uvloop.run
    assert isinstance(run(scene()).answer, kind)
