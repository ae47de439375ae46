"""`upshot event`: post events, look at those there are."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from upshot.cli.client import Client, connected, path_of
from upshot.cli.options import LIMIT, AsJson, Key, Limit, Since, Until, Url
from upshot.cli.output import local_time, plain, print_fields, print_json, print_table
from upshot.core.errors import Invalid
from upshot.core.events import RESOURCE_ID

app = typer.Typer(no_args_is_help=True, help="Events: what happened, in your own words.")


def _labels(pairs: list[str], option: str) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} {pair!r}: write label=value, such as id=123.")
        labels[name] = value
    return labels


def _payload(text: str) -> Any:
    """JSON given itself, or in a file after an @."""
    try:
        if text.startswith("@"):
            path = Path(text[1:])
            text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise Invalid(f"--payload cannot be read as JSON: {error}.") from None


@app.command()
def emit(
    name: Annotated[str, typer.Argument(help="The event's name, such as order.created.")],
    resource: Annotated[
        list[str],
        typer.Option(
            metavar="LABEL=VALUE",
            help="A label of what it happened to; id is needed. Repeat it for several.",
        ),
    ],
    related: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=VALUE,...",
            help="The labels of a related resource, id and role among them. Repeat it for several.",
        ),
    ] = None,
    payload: Annotated[
        str | None, typer.Option(help="A JSON object, or @file with one, or @- for standard input.")
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option("--id", metavar="UUID", help="Its id; the same posted again is a duplicate."),
    ] = None,
    occurred: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it happened. Default: now.")
    ] = None,
    follows: Annotated[
        str | None, typer.Option(metavar="UUID", help="The event that came before it.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is evaluated, and show what it led to.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Post an event.

    \b
    Examples:
      upshot event emit order.created --resource id=123
      upshot event emit order.complete --resource id=123 --wait
      upshot event emit parcel.sent --resource id=p-1 --resource name="A parcel" \\
        --related role=customer,id=123 --payload '{"weight": 2.5}'
    """
    event: dict[str, Any] = {"event": name, "resource": _labels(resource, "--resource")}
    if related:
        event["related"] = [_labels(labels.split(","), "--related") for labels in related]
    if payload is not None:
        event["payload"] = _payload(payload)
    event |= {
        field: value
        for field, value in (("id", event_id), ("occurred", occurred), ("follows", follows))
        if value is not None
    }
    with connected(url, key) as client:
        query = {"wait": "evaluated"} if wait else None
        answer = client.call("POST", "/v1/events", document=event, query=query).document
        (result,) = answer["results"]
        shown = {**result, "evaluated": answer.get("evaluated")} if wait else result
        if wait and answer.get("evaluated"):
            shown["runs"] = client.get(path_of("events", result["id"]))["runs"]
    if as_json:
        print_json(shown)
    else:
        _print_result(shown)


def _print_result(result: dict[str, Any]) -> None:
    typer.echo(plain(f"{result['id']}: {result['status']}"))
    if result.get("evaluated") is False:
        typer.echo("It is stored, and not evaluated yet: see 'upshot status'.")
    elif "runs" in result:
        for run in result["runs"]:
            typer.echo(plain(f"run {run['id']} of {run['deployment']}: {run['state']}"))
        if not result["runs"]:
            typer.echo("It made no run.")


@app.command("list")
def list_all(
    event: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Only names like this, such as 'order.*' or '!order.lost'."
        ),
    ] = None,
    resource: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this resource id, or pattern of ids.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = LIMIT,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show events, the newest first.

    \b
    Examples:
      upshot event list --since 1h
      upshot event list --event 'order.*' --resource 123 --json
    """
    with connected(url, key) as client:
        events = client.items(
            "/v1/events", limit=limit, event=event, resource=resource, since=since, until=until
        )
    if as_json:
        print_json(events)
        return
    print_table(
        ("RECEIVED", "EVENT", "RESOURCE", "ID"),
        (
            (local_time(one["received"]), one["event"], one["resource"][RESOURCE_ID], one["id"])
            for one in events
        ),
        empty="There are no such events.",
    )


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id.")],
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show an event in full, with the runs it led to."""
    with connected(url, key) as client:
        event = _load(client, event_id)
    if as_json:
        print_json(event)
        return
    runs, errors = event.pop("runs", []), event.pop("errors", [])
    times = {field: local_time(event.get(field)) for field in ("occurred", "received")}
    print_fields({**event, **times})
    print_table(
        ("RUN", "TRIGGER", "DEPLOYMENT", "STATE"),
        ((run["id"], run["trigger"], run["deployment"], run["state"]) for run in runs),
        empty="It made no run.",
    )
    for error in errors:
        typer.echo(plain(f"not evaluated by {error['trigger']}: {error['error']}"))


def _load(client: Client, event_id: str) -> dict[str, Any]:
    event: dict[str, Any] = client.get(path_of("events", event_id))
    return event
