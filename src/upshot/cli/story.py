"""The demo's story: a shop, two orders, and the one run that comes of them."""

import json
import shlex
from datetime import datetime
from typing import Any

import typer

from upshot.cli.client import Client
from upshot.cli.output import plain
from upshot.cli.runs import print_run
from upshot.core.errors import Conflict, UpshotError
from upshot.core.limits import DEMO_RUN_ENDS_WITHIN
from upshot.demo.background import Background, wait_until

DEPLOYMENT = "post-order-complete"
TRIGGER = "order-complete"
ENDED = ("completed", "failed", "cancelled")


class StoryFailed(UpshotError):
    """What should have happened did not."""


def tell_story(client: Client, runner: Background, *, runner_url: str, secret: str) -> None:
    """Play it over HTTP, showing every request as the curl command that it is."""
    narrator = _Narrator(client)
    _refuse_to_overwrite(client)
    heard = len(runner.said().encode())

    narrator.chapter("What to run: a deployment, and the runner to call")
    webhook = {"type": "webhook", "url": runner_url, "secret": secret}
    narrator.send("PUT", f"/v1/deployments/{DEPLOYMENT}", {"runner": webhook}, ("name", "runner"))

    narrator.chapter("When to run it: after an order is created, once that very order completes")
    narrator.send(
        "PUT",
        f"/v1/triggers/{TRIGGER}",
        {
            "deployment": DEPLOYMENT,
            "after": ["order.created"],
            "expect": ["order.complete"],
            "for_each": ["prefect.resource.id"],
            "parameters": {"user_id": "{{ event.resource.id }}"},
        },
        ("name", "after", "expect", "for_each", "deployment"),
    )

    narrator.chapter("What happens: 123 and 456 order, and 123's order completes")
    first = narrator.post_event("order.created", "123")
    narrator.post_event("order.created", "456")
    last = narrator.post_event("order.complete", "123")

    narrator.chapter("What came of it: one run, for 123")
    run = _wait_for_run(client, event_id=last)
    print_run(run)
    typer.echo(f"The runner was called {_milliseconds(client, last, run)} ms after the event came.")
    typer.echo("It says:")
    typer.echo(plain("  " + runner.said(after=heard).strip().replace("\n", "\n  ")))

    narrator.chapter("And 456? Nothing, until that order completes: seconds, days or weeks later")
    since = client.get(f"/v1/events/{first}")["received"]
    runs = narrator.ask("/v1/runs", trigger=TRIGGER, since=since)
    typer.echo(plain(f"{len(runs)} run: {', '.join(json.dumps(run['labels']) for run in runs)}"))
    if [run["id"]] != [one["id"] for one in runs]:
        raise StoryFailed(f"There should be one run, {run['id']}.")


class _Narrator:
    """Sends requests, and shows each with its answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._chapters = 0

    def chapter(self, title: str) -> None:
        self._chapters += 1
        typer.secho(f"\n{self._chapters}. {title}", bold=True)

    def send(self, method: str, path: str, document: Any, shown: tuple[str, ...]) -> Any:
        """Of the answer, only the fields named are shown."""
        body = shlex.quote(json.dumps(document))
        self._show_request(
            f"-X {method} ", path, f" \\\n    -H 'content-type: application/json' -d {body}"
        )
        answer = self._client.call(method, path, document=document)
        fields = {field: answer.document[field] for field in shown}
        typer.secho(plain(f"{answer.status} {json.dumps(fields)}"), fg="green")
        return answer.document

    def post_event(self, event: str, resource_id: str) -> str:
        """The id that the event was given."""
        document = {"event": event, "resource": {"prefect.resource.id": resource_id}}
        answer = self.send("POST", "/v1/events", document, ("accepted", "results"))
        event_id: str = answer["results"][0]["id"]
        return event_id

    def ask(self, path: str, **query: str) -> list[Any]:
        asked = " ".join(f"-d {name}={shlex.quote(value)}" for name, value in query.items())
        self._show_request("-G ", path, f" {asked}")
        return self._client.items(path, limit=10, **query)

    def _show_request(self, before: str, path: str, after: str) -> None:
        key = ' -H "Authorization: Bearer $UPSHOT_API_KEY"' if self._client.has_key else ""
        typer.echo(plain(f"$ curl {before}{self._client.url}{path}{key}{after}"))


def _refuse_to_overwrite(client: Client) -> None:
    """A shop that is real may have such names too."""
    deployment = client.find(f"/v1/deployments/{DEPLOYMENT}")
    trigger = client.find(f"/v1/triggers/{TRIGGER}")
    is_ours = deployment is None or deployment["runner"].get("url", "").startswith(
        "http://127.0.0.1:"
    )
    if not is_ours or (trigger is not None and trigger["deployment"] != DEPLOYMENT):
        raise Conflict(
            f"The server at {client.url} has a deployment {DEPLOYMENT!r} or a trigger {TRIGGER!r} "
            "that the demo did not make, and would change. Use another server: "
            "UPSHOT_PORT=8585 UPSHOT_DATA_DIR=/tmp/upshot upshot demo"
        )


def _wait_for_run(client: Client, *, event_id: str) -> dict[str, Any]:
    """The run that this event led to, when it has ended."""
    runs: list[dict[str, Any]] = []

    def has_ended() -> bool:
        runs[:] = client.get(f"/v1/events/{event_id}")["runs"]
        return bool(runs) and runs[0]["state"] in ENDED

    seconds = DEMO_RUN_ENDS_WITHIN.total_seconds()
    if not wait_until(has_ended, seconds):
        what = f"is still {runs[0]['state']}" if runs else "was not made"
        raise StoryFailed(f"The run {what} after {seconds:.0f} s; see 'upshot status'.")
    run: dict[str, Any] = client.get(f"/v1/runs/{runs[0]['id']}")
    if run["state"] != "completed":
        print_run(run)
        raise StoryFailed(f"The run has {run['state']}: {run['error']}")
    return run


def _milliseconds(client: Client, event_id: str, run: dict[str, Any]) -> int:
    received = datetime.fromisoformat(client.get(f"/v1/events/{event_id}")["received"])
    started = datetime.fromisoformat(run["attempts"][0]["started"])
    return round((started - received).total_seconds() * 1000)
