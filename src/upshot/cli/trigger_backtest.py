"""`upshot trigger backtest`: what a trigger would have fired over the events that are stored."""

from typing import Annotated, Any

import typer

from upshot.cli.client import Client, connected
from upshot.cli.definitions import DefinitionFile
from upshot.cli.options import LIMIT, AsJson, Key, Limit, Since, Until, Url
from upshot.cli.output import counted, local_time, plain, print_json, print_table, tell
from upshot.cli.trigger_suite import read_suite, shown
from upshot.core.errors import Invalid
from upshot.core.limits import LIST_LIMIT_MAX


def backtest(
    file: DefinitionFile,
    since: Since = None,
    until: Until = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Show only what differs from this trigger, which is registered."
        ),
    ] = None,
    limit: Limit = LIMIT,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Try a trigger on the events that are stored. It need not exist, and nothing is changed.

    By default on those of the last 24 hours. The file is one for 'trigger apply' or 'trigger test',
    with a single trigger in it.

    \b
    Examples:
      upshot trigger backtest -f trigger.yaml --since 7d
      upshot trigger backtest -f trigger.yaml --against order-complete
    """
    triggers = read_suite(file).triggers
    if len(triggers) != 1:
        raise Invalid(f"{shown(file)} holds {len(triggers)} triggers; try one at a time.")
    asked = {"trigger": triggers[0], "since": since, "until": until, "against": against}
    with connected(url, key) as client:
        found = _all_of(client, asked, limit=limit)
    if as_json:
        print_json(found)
        return
    _print_items(found["items"], empty="It would not have fired." if against is None else "")
    typer.echo(plain(_summary(found, against)))
    if found.get("note"):
        tell(found["note"])


def _all_of(client: Client, asked: dict[str, Any], *, limit: int) -> dict[str, Any]:
    """The answers to one backtest, over as many of them as it takes, as one."""
    items: list[Any] = []
    body = {name: value for name, value in asked.items() if value is not None}
    while True:
        wanted = min(limit - len(items), LIST_LIMIT_MAX)
        answer: dict[str, Any] = client.call(
            "POST", "/v1/triggers/backtest", document={**body, "limit": wanted}
        ).document
        items += answer["items"]
        if answer["next_cursor"] is None or len(items) >= limit:
            return {**answer, "items": items}
        tell(
            f"up to {local_time(answer['reached'])}: {answer['events']:,} events, "
            f"{len(items):,} firings"
        )
        body = {"cursor": answer["next_cursor"]}


def _print_items(items: list[dict[str, Any]], *, empty: str) -> None:
    compares = any("only" in item for item in items)
    columns = ("AT", "LABELS", "EVENT", "PARAMETERS")
    if not items and not empty:
        return
    print_table(
        ("ONLY", *columns) if compares else columns,
        (
            (
                *([item["only"]] if compares else []),
                local_time(item["at"]),
                ", ".join(f"{label}={value}" for label, value in item["labels"].items()),
                " ".join((item["event"]["event"], item["event"]["id"])) if item["event"] else None,
                item["error"] or item["parameters"],
            )
            for item in items
        ),
        empty=empty,
    )


def _summary(found: dict[str, Any], against: str | None) -> str:
    """What was looked at, and what came of it."""
    count = counted(len(found["items"]), "firing")
    said = count if against is None else f"{count} unlike {against!r}, {found['same']:,} alike"
    looked = f"{counted(found['events'], 'event')} looked at, {found['concerned']:,} concerned it"
    if found["next_cursor"] is not None:
        return f"{said}; {looked}, up to {local_time(found['reached'])}. More with --limit."
    return f"{said}; {looked}; {counted(found['open_keys'], 'key')} open at the end."
