"""Runners of deployments: written, shown without their secrets, which are kept when not sent."""

from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field
from pydantic import Tag as Kind

from upshot.api.bodies import merge_patch
from upshot.api.problems import prefixed
from upshot.core.delivery import (
    Form,
    Method,
    Pull,
    Runner,
    Webhook,
    pull_problems,
    webhook_problems,
)
from upshot.core.errors import Invalid, Problem
from upshot.core.language import Duration, Strict, seconds
from upshot.core.limits import RETRIES_DEFAULT, RETRIES_MAX, RUNNER_TIMEOUT_DEFAULT, URL_CHARS_MAX

HIDDEN: Final = "***"
"""What is shown in place of a secret, and what keeps it when it is sent back."""

_HIDDEN_FIELDS: Final = ("secret", "headers")

Secret = Annotated[str, Field(max_length=256)]


class WebhookRunner(Strict):
    """A webhook: an HTTP endpoint that is called with each run."""

    type: Literal["webhook"] = "webhook"
    url: str = Field(
        max_length=URL_CHARS_MAX,
        description="Where to call.",
        examples=["http://127.0.0.1:9000/run"],
        json_schema_extra={"format": "uri"},
    )
    headers: dict[str, str | None] | None = Field(
        default={},
        description="Headers to add; their values are shown as `***`. A header that is not sent, "
        "or sent as `***`, keeps its value; null removes it.",
        examples=[{"authorization": "Bearer 7c6f"}],
    )
    secret: Secret | list[Secret] | None = Field(
        default=None,
        description="Signs calls as Standard Webhooks (`whsec_...`); two during a rotation. Shown "
        "as `***`. Sent as `***`, or not at all, it is kept (a `***` in a list keeps the one that "
        "was in its turn); null removes it.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )
    timeout: Duration = Field(
        default=RUNNER_TIMEOUT_DEFAULT, description="For one call, from beginning to end."
    )
    retries: list[Duration] = Field(
        default=[timedelta(seconds=wait) for wait in RETRIES_DEFAULT],
        max_length=RETRIES_MAX,
        description="Seconds to wait before each further attempt.",
    )
    method: Method = Field(
        default="POST", description="A GET has no body. Shown only when it is another than POST."
    )
    body: Form = Field(
        default="run",
        description="What a call carries. `run`: the run, with its parameters, event and lease. "
        "`parameters`: these alone, as JSON. `payload`: the one parameter of that name, a text as "
        "it is, all else as JSON. Shown only when it is another than `run`.",
    )


class PullRunner(Strict):
    """Workers that ask for runs, by `POST /v1/runs/claim`, and need no open port."""

    type: Literal["pull"]
    retries: list[Duration] = Field(
        default=[timedelta(seconds=wait) for wait in RETRIES_DEFAULT],
        max_length=RETRIES_MAX,
        description="Seconds to wait before each further attempt that a worker asks for by "
        "`retry`. A run whose worker vanished is offered again at once, which uses up one of them.",
    )


def _kind_of(written: Any) -> str:
    kind = written.get("type") if isinstance(written, dict) else getattr(written, "type", None)
    return "webhook" if kind is None else str(kind)


RunnerWritten = Annotated[
    Annotated[WebhookRunner, Kind("webhook")] | Annotated[PullRunner, Kind("pull")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_type",
        custom_error_message="type must be 'webhook' or 'pull'",
    ),
]


def runner_shown(runner: Runner) -> dict[str, Any]:
    if isinstance(runner, Pull):
        return {"type": "pull", "retries": _shown_waits(runner.retries)}
    hidden: Any = [HIDDEN] * len(runner.secrets)
    return {
        "type": "webhook",
        "url": runner.url,
        **runner.plain_form,
        "headers": dict.fromkeys(runner.headers, HIDDEN),
        "secret": hidden if len(hidden) > 1 else (hidden[0] if hidden else None),
        "timeout": seconds(runner.timeout),
        "retries": _shown_waits(runner.retries),
    }


def _shown_waits(waits: tuple[float, ...]) -> list[int | float]:
    return [seconds(timedelta(seconds=wait)) for wait in waits]


def patched(document: dict[str, Any], patch: dict[str, Any]) -> Any:
    """The merge. What is hidden is left out, which keeps it, and null for it stays null.

    A runner of another type takes the place of the one there was, whose fields it has not.
    """
    shown_runner = {
        name: value for name, value in document["runner"].items() if name not in _HIDDEN_FIELDS
    }
    merged = merge_patch({**document, "runner": shown_runner}, patch)
    runner = patch.get("runner")
    if not isinstance(runner, dict):
        return merged
    if _kind_of(merged["runner"]) != document["runner"]["type"]:
        return {**merged, "runner": merge_patch({}, runner)}
    for field in _HIDDEN_FIELDS:
        if field in runner and runner[field] is None:
            merged["runner"][field] = None
    headers = runner.get("headers")
    if isinstance(headers, dict):
        merged["runner"]["headers"].update(
            {name: None for name, value in headers.items() if value is None}
        )
    return merged


def runner_of(written: RunnerWritten, stored: Runner | None) -> Runner:
    """What is to be stored, with the secrets that were kept, or Invalid with what is wrong."""
    if isinstance(written, PullRunner):
        pull = Pull(_waits(written.retries))
        _check(pull_problems(pull))
        return pull
    return _webhook_of(written, stored if isinstance(stored, Webhook) else None)


def _webhook_of(written: WebhookRunner, stored: Webhook | None) -> Webhook:
    found: list[Problem] = []
    runner = Webhook(
        url=written.url,
        headers=_headers_of(written, stored, found),
        secrets=_secrets_of(written, stored, found),
        timeout=written.timeout,
        retries=_waits(written.retries),
        method=written.method,
        body=written.body,
    )
    _check([*found, *webhook_problems(runner)])
    return runner


def _waits(waits: list[timedelta]) -> tuple[float, ...]:
    return tuple(wait.total_seconds() for wait in waits)


def _check(found: list[Problem]) -> None:
    if found:
        raise Invalid(f"The runner cannot be used: {found[0].msg}", prefixed("runner", found))


def _headers_of(
    written: WebhookRunner, stored: Webhook | None, found: list[Problem]
) -> dict[str, str]:
    kept = {name.lower(): value for name, value in (stored.headers if stored else {}).items()}
    if written.headers is None:
        return {}
    sent = {name.lower() for name in written.headers}
    headers = {
        name: value
        for name, value in (stored.headers if stored else {}).items()
        if name.lower() not in sent
    }
    for name, value in written.headers.items():
        if value == HIDDEN and name.lower() in kept:
            headers[name] = kept[name.lower()]
        elif value == HIDDEN:
            found.append(Problem(("headers", name), "There is no value stored that could be kept."))
        elif value is not None:
            headers[name] = value
    return headers


def _secrets_of(
    written: WebhookRunner, stored: Webhook | None, found: list[Problem]
) -> tuple[str, ...]:
    kept = stored.secrets if stored else ()
    sent = written.secret
    if "secret" not in written.model_fields_set:
        return kept
    if sent is None:
        return ()
    if sent == HIDDEN and kept:
        return kept
    still = iter(kept)
    secrets = []
    for index, secret in enumerate(sent if isinstance(sent, list) else [sent]):
        value = next(still, None) if secret == HIDDEN else secret
        if value is None:
            loc = ("secret", index) if isinstance(sent, list) else ("secret",)
            found.append(Problem(loc, "There is no secret stored that could be kept."))
        else:
            secrets.append(value)
    return tuple(secrets)
