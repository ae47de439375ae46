"""`upshot run`: what was run, how it went, and again or no more."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from upshot.cli.client import Client, connected, path_of
from upshot.cli.options import LIMIT, AsJson, Key, Limit, Since, Until, Url
from upshot.cli.output import local_time, plain, print_fields, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Runs: what was made of events, and how it went.")

State = Literal["scheduled", "running", "retrying", "completed", "failed", "cancelled"]
EndedState = Literal["failed", "cancelled"]
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.", show_default=False)]


@app.command("list")
def list_all(
    state: Annotated[State | None, typer.Option(help="Only runs in this state.")] = None,
    deployment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this deployment.")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this trigger.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = LIMIT,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show runs, the newest first.

    \b
    Examples:
      upshot run list --state failed --since 1d
      upshot run list --trigger order-complete --json
    """
    with connected(url, key) as client:
        runs = client.items(
            "/v1/runs",
            limit=limit,
            state=state,
            deployment=deployment,
            trigger=trigger,
            since=since,
            until=until,
        )
    if as_json:
        print_json(runs)
        return
    print_table(
        ("CREATED", "STATE", "DEPLOYMENT", "TRIGGER", "LABELS", "ID"),
        (
            (
                local_time(run["created"]),
                run["state"],
                run["deployment"],
                (run["trigger"] or {}).get("name"),
                _pairs(run["labels"]),
                run["id"],
            )
            for run in runs
        ),
        empty="There are no such runs.",
    )


@app.command()
def show(run_id: RunId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show a run in full: its cause, its parameters and every attempt."""
    with connected(url, key) as client:
        run = client.get(path_of("runs", run_id))
    if as_json:
        print_json(run)
    else:
        print_run(run)


@app.command()
def retry(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One run's id.", show_default=False)
    ] = None,
    deployment: Annotated[
        str | None, typer.Option(metavar="NAME", help="All runs of this deployment.")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(metavar="NAME", help="All runs of this trigger.")
    ] = None,
    state: Annotated[EndedState | None, typer.Option(help="All runs that ended like this.")] = None,
    since: Since = None,
    until: Until = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Run ended runs again under their ids: one, or all that fit.

    \b
    Examples:
      upshot run retry 0197c1f2-6f3a-7c4e-9d55-0b1f0a6d2c11
      upshot run retry --deployment post-order-complete --since 2h
      upshot run retry --state cancelled --trigger order-complete
    """
    wanted = {
        name: value
        for name, value in {
            "deployment": deployment,
            "trigger": trigger,
            "state": state,
            "since": since,
            "until": until,
        }.items()
        if value is not None
    }
    if bool(run_id) == bool(wanted):
        raise typer.BadParameter(
            "name one run by its id, or many by --deployment, --trigger, --state, --since, --until"
        )
    if run_id:
        _ask(run_id, "retry", url=url, key=key, as_json=as_json)
        return
    with connected(url, key) as client:
        total = _retry_all(client, wanted)
    if as_json:
        print_json(total)
        return
    for one in total["not_retried"]:
        typer.echo(plain(f"{one['id']}: not retried: {one['reason']}"))
    typer.echo(f"{total['retried']} runs begin again.")


def _retry_all(client: Client, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Over as many requests as it takes."""
    retried, not_retried, cursor = 0, [], None
    while True:
        document = {**wanted, **({"cursor": cursor} if cursor else {})}
        answer = client.call("POST", path_of("runs", "retry"), document=document).document
        retried += answer["retried"]
        not_retried += answer["not_retried"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return {"retried": retried, "not_retried": not_retried}


@app.command()
def cancel(run_id: RunId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Stop a run that has not ended."""
    _ask(run_id, "cancel", url=url, key=key, as_json=as_json)


def _ask(run_id: str, verb: str, *, url: str | None, key: str | None, as_json: bool) -> None:
    with connected(url, key) as client:
        run = client.call("POST", path_of("runs", run_id, verb)).document
    if as_json:
        print_json(run)
    else:
        typer.echo(plain(f"{run['id']}: {run['state']}"))


def print_run(run: dict[str, Any]) -> None:
    """A run's page: what it is, then its attempts."""
    trigger, event = run.get("trigger") or {}, run.get("event") or {}
    print_fields(
        {
            "run": run["id"],
            "state": run["state"],
            "deployment": run["deployment"],
            "trigger": trigger.get("name"),
            "labels": _pairs(run["labels"]),
            "parameters": run["parameters"],
            "event": " ".join(filter(None, (event.get("event"), event.get("id")))),
            "created": local_time(run["created"]),
            "scheduled": local_time(run.get("scheduled_at")),
            "finished": local_time(run.get("finished")),
            "next attempt": local_time(run.get("next_attempt_at")),
            "result": run.get("result"),
            "error": run.get("error"),
        }
    )
    print_table(
        ("ATTEMPT", "STARTED", "SECONDS", "STATUS", "OUTCOME", "ERROR"),
        (
            (
                attempt["number"],
                local_time(attempt["started"]),
                f"{attempt['duration']:.3f}",
                attempt["status"],
                attempt["outcome"],
                attempt["error"],
            )
            for attempt in run["attempts"]
        ),
        empty="No attempt yet.",
    )


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())
