"""Runners; what a webhook call says, what its answer means, and when it is tried again."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from math import isfinite
from typing import Any, Literal, assert_never
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from upshot.core.errors import Problem
from upshot.core.limits import (
    HEADER_NAME_CHARS_MAX,
    HEADER_VALUE_CHARS_MAX,
    HEADERS_MAX,
    RETRIES_DEFAULT,
    RETRIES_MAX,
    RETRY_AFTER_MAX,
    RETRY_JITTER_MAX,
    RETRY_SECONDS_MAX,
    RUNNER_TIMEOUT_DEFAULT,
    RUNNER_TIMEOUT_MAX,
    SECRETS_MAX,
    URL_CHARS_MAX,
)
from upshot.core.signatures import secret_problem

Method = Literal["POST", "GET", "PUT", "PATCH", "DELETE"]
Form = Literal["run", "parameters", "payload"]
"""What a call carries: the whole run, its parameters, or the one parameter `payload`."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A runner that is called. `retries` are the seconds to wait before each further attempt.

    Headers and secrets hold what must not be seen, so `repr` leaves them out.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    timeout: timedelta = RUNNER_TIMEOUT_DEFAULT
    retries: tuple[float, ...] = RETRIES_DEFAULT
    method: Method = "POST"
    body: Form = "run"

    @property
    def plain_form(self) -> dict[str, str]:
        """How its calls differ from the usual ones: in nothing, for most runners."""
        form = {"method": self.method, "body": self.body}
        usual = {"method": "POST", "body": "run"}
        return {name: value for name, value in form.items() if value != usual[name]}

    @property
    def can_report(self) -> bool:
        """Whether a call tells it the lease, without which it cannot say later what became."""
        return self.body == "run" and self.method != "GET"


@dataclass(frozen=True, slots=True)
class Pull:
    """A runner that asks for runs. `retries` are the waits after failures that it wants repeated,
    and their number is how often a run may be lost.
    """

    retries: tuple[float, ...] = RETRIES_DEFAULT


Runner = Webhook | Pull


@dataclass(frozen=True, slots=True)
class Responded:
    """The runner's whole answer, or as much of it as is read; `text` is its beginning."""

    status: int
    retry_after: timedelta | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Unreached:
    """No HTTP answer came: no address, no connection, bad TLS, or something else than HTTP."""

    error: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline passed before the answer had ended."""

    error: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The call was not made, because Upshot does not make such calls."""

    error: str


Answer = Responded | Unreached | TimedOut | Refused


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as it goes on record."""

    started_at: datetime
    duration: timedelta
    answer: Answer

    @property
    def status(self) -> int | None:
        return self.answer.status if isinstance(self.answer, Responded) else None

    @property
    def response_text(self) -> str | None:
        return self.answer.text if isinstance(self.answer, Responded) else None

    @property
    def error(self) -> str | None:
        return None if isinstance(self.answer, Responded) else self.answer.error


@dataclass(frozen=True, slots=True)
class Completed:
    """The run is done."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The runner works on, and reports when it is done."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The attempt failed, the next may not. `after` is the wait that the runner asked for."""

    reason: str
    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The run failed, and so would all others: the deployment is to be disabled."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The run failed, and another attempt would too."""

    reason: str


Verdict = Completed | Accepted | TryAgain | Gone | Failed

_TRANSIENT = frozenset({408, 425, 429})


def judge(answer: Answer, *, can_report: bool = True) -> Verdict:
    """What an answer means. Of a runner that cannot report a 202 is all that will be heard."""
    match answer:
        case Responded(status=202) if not can_report:
            return Completed()
        case Responded():
            return _judge_response(answer)
        case Unreached(error) | TimedOut(error):
            return TryAgain(error)
        case Refused(error):
            return Failed(error)
        case _:
            assert_never(answer)


def _judge_response(response: Responded) -> Verdict:
    status = response.status
    reason = f"HTTP {status}"
    if status == 202:
        return Accepted()
    if 200 <= status < 300:
        # 200, 201 and 204 are what runners are told to send; the rest of 2xx means no less.
        return Completed()
    if status in _TRANSIENT or 500 <= status < 600:
        return TryAgain(reason, response.retry_after)
    if status == 410:
        return Gone(reason)
    if 300 <= status < 400:
        return Failed(f"{reason}: redirects are not followed")
    return Failed(reason)


def retry_at(
    now: datetime,
    *,
    retries: Sequence[float],
    retries_used: int,
    after: timedelta | None,
    jitter: float,
) -> datetime | None:
    """When to try again, or None when the retries are used up. `jitter` is drawn from [0, 1).

    It is never earlier than the runner asked; jitter only adds. By `after` a runner may also
    bring its first retry forward, but not the later ones: a short Retry-After from a runner that
    is down would use them all up within seconds.
    """
    if retries_used >= len(retries):
        return None
    wait = timedelta(seconds=retries[retries_used])
    if after is not None:
        after = min(after, RETRY_AFTER_MAX)
        wait = after if retries_used == 0 else max(wait, after)
    return now + wait * (1 + RETRY_JITTER_MAX * jitter)


def parse_retry_after(value: str, now: datetime) -> timedelta | None:
    """Read a Retry-After header, seconds or a date; None for what is neither."""
    value = value.strip()
    if re.fullmatch(r"-?[0-9]+", value):
        # More digits than this are beyond the bound, and beyond what timedelta takes.
        seconds = int(value) if len(value) <= 9 else (-1 if value.startswith("-") else 10**9)
        wait = timedelta(seconds=seconds)
    else:
        try:
            date = parsedate_to_datetime(value)
            wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return min(max(wait, timedelta(0)), RETRY_AFTER_MAX)


def call_body(
    *,
    run_id: UUID,
    deployment: str,
    parameters: str,
    trigger: str | None,
    labels: str,
    event: str | None,
    attempt: int,
    scheduled_at: datetime,
    lease: UUID,
    lease_until: datetime | None = None,
) -> bytes:
    """The JSON a runner gets. `parameters`, `labels` and `event` are JSON texts, put in as is.

    `lease_until` is for workers that pull, and is left out for the others.
    """
    body: dict[str, Any] = {
        "run_id": run_id,
        "deployment": deployment,
        "parameters": _raw(parameters),
        "trigger": trigger,
        "labels": _raw(labels),
        "event": None if event is None else _raw(event),
        "attempt": attempt,
        "scheduled_at": scheduled_at,
        "lease": lease,
    }
    if lease_until is not None:
        body["lease_until"] = lease_until
    return msgspec.json.encode(body)


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def webhook_problems(webhook: Webhook) -> list[Problem]:
    """All that is wrong with a runner, by field, in words that repeat no secret."""
    return [
        *_url_problems(webhook.url),
        *_header_problems(webhook.headers),
        *_secret_problems(webhook.secrets),
        *_timeout_problems(webhook.timeout),
        *_retries_problems(webhook.retries),
    ]


def pull_problems(pull: Pull) -> list[Problem]:
    """All that is wrong with a runner that pulls, by field."""
    return _retries_problems(pull.retries)


def _url_problems(url: str) -> list[Problem]:
    message = _url_problem(url)
    return [] if message is None else [Problem(("url",), message)]


@lru_cache(maxsize=1_024)
def _url_problem(url: str) -> str | None:
    if len(url) > URL_CHARS_MAX:
        return f"The URL has {len(url)} characters; at most {URL_CHARS_MAX} fit."
    if not url.isprintable() or " " in url:
        return "The URL has spaces or control characters. Percent-encode them."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"The URL cannot be read: {error}."
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "The URL must be absolute, as in `https://runner.example/run`."
    if port == 0:
        return "Port 0 cannot be called."
    if "@" in parts.netloc:
        return "The URL holds credentials, and URLs are shown. Use an Authorization header."
    if parts.fragment:
        return "The URL has a fragment (`#...`), which is never sent. Leave it out."
    return None


# Names that decide how the request is framed or read, and those that Upshot sets itself. Users
# may set `content-type` and `user-agent`.
_RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "idempotency-key",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_RESERVED_PREFIX = "webhook-"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")


def _header_problems(headers: Mapping[str, str]) -> list[Problem]:
    if len(headers) > HEADERS_MAX:
        return [Problem(("headers",), f"There are {len(headers)}; at most {HEADERS_MAX} fit.")]
    problems = []
    seen: set[str] = set()
    for name, value in headers.items():
        message = _header_problem(name, value)
        if message is None and name.lower() in seen:
            message = "This header is given twice; case does not count."
        seen.add(name.lower())
        if message is not None:
            problems.append(Problem(("headers", name), message))
    return problems


@lru_cache(maxsize=1_024)
def _header_problem(name: str, value: str) -> str | None:
    if len(name) > HEADER_NAME_CHARS_MAX or not _HEADER_NAME.fullmatch(name):
        return (
            f"A header's name has 1 to {HEADER_NAME_CHARS_MAX} letters, digits "
            "or characters of !#$%&'*+-.^_`|~."
        )
    if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIX):
        return "Upshot sets this header itself. Leave it out."
    if len(value) > HEADER_VALUE_CHARS_MAX:
        return f"The value has {len(value)} characters; at most {HEADER_VALUE_CHARS_MAX} fit."
    if not _HEADER_VALUE.fullmatch(value):
        # Beyond ASCII, sender and receiver disagree about the encoding.
        return "The value must be printable ASCII, with no line break and no space around it."
    return None


def _secret_problems(secrets: tuple[str, ...]) -> list[Problem]:
    if len(secrets) > SECRETS_MAX:
        too_many = f"There are {len(secrets)}; at most {SECRETS_MAX}, during a rotation."
        return [Problem(("secret",), too_many)]
    problems = []
    for index, secret in enumerate(secrets):
        message = secret_problem(secret)
        if message is not None:
            loc = ("secret",) if len(secrets) == 1 else ("secret", index)
            problems.append(Problem(loc, message))
    return problems


def _timeout_problems(timeout: timedelta) -> list[Problem]:
    if timedelta(0) < timeout <= RUNNER_TIMEOUT_MAX:
        return []
    most = RUNNER_TIMEOUT_MAX.total_seconds()
    return [Problem(("timeout",), f"Must be above 0 and at most {most:.0f} seconds.")]


def _retries_problems(retries: tuple[float, ...]) -> list[Problem]:
    problems = []
    if len(retries) > RETRIES_MAX:
        problems.append(Problem(("retries",), f"There are {len(retries)}; at most {RETRIES_MAX}."))
    for index, seconds in enumerate(retries):
        if not isfinite(seconds) or not 0 <= seconds <= RETRY_SECONDS_MAX:
            message = f"Must be seconds from 0 to {RETRY_SECONDS_MAX:.0f}."
            problems.append(Problem(("retries", index), message))
    return problems
