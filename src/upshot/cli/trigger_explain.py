"""`upshot trigger explain`: why an event did or did not fire a trigger."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from upshot.cli.client import connected, path_of
from upshot.cli.options import AsJson, Key, Url
from upshot.cli.output import plain, print_json


def explain(
    name: Annotated[str, typer.Argument(help="The trigger's name.", show_default=False)],
    event_id: Annotated[
        str, typer.Argument(metavar="EVENT_ID", help="The event's id.", show_default=False)
    ],
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Tell why an event did or did not fire a trigger.

    \b
    Example:
      upshot trigger explain order-complete 0199c5a0-0000-7000-8000-000000000001
    """
    with connected(url, key) as client:
        explanation = client.get(path_of("triggers", name, "explain", event_id))
    if as_json:
        print_json(explanation)
    else:
        for line in _lines(explanation):
            typer.echo(line)


def _lines(explanation: dict[str, Any]) -> Iterator[str]:
    version = f"{explanation['trigger']}, version {explanation['version']}"
    yield plain(version if explanation["enabled"] else f"{version}, disabled")
    for check in explanation["checks"]:
        yield _check(check)
    labels = explanation["labels"]
    if labels:
        pairs = ", ".join(f"{label}={value}" for label, value in labels.items())
        yield plain(f"key     {pairs}")
    if explanation["before"] or explanation["after"]:
        yield plain(f"before  {_state(explanation['before'])}")
        yield plain(f"after   {_state(explanation['after'])}")
    for child in explanation["children"]:
        yield plain(f"child {_path(child['child'])}: {child['summary']}")
    for run in explanation["runs"]:
        yield plain(f"run     {run}")
    if explanation["note"]:
        yield typer.style(plain(explanation["note"]), fg="yellow")
    yield typer.style(plain(explanation["summary"]), bold=True)


def _check(check: dict[str, Any]) -> str:
    child = f" of child {_path(check['child'])}" if check["child"] else ""
    said = plain(f" {check['check']}{child}")
    if check["passed"]:
        actual = check["actual"]
        said += f": {plain(_shown(actual))}" if actual not in (None, [], {}) else ""
    else:
        said += f": {plain(check['why'])}"
    mark = typer.style("✓", fg="green") if check["passed"] else typer.style("✗", fg="red")
    return mark + said


def _state(state: dict[str, Any] | None) -> str:
    if state is None:
        return "nothing"
    said = f"{state['state']}, {state['count']} of {state['needed']}"
    if state["started"]:
        said += f", since {_utc(state['started'])}"
    if state["deadline"]:
        said += f", until {_utc(state['deadline'])}"
    if state["after"]:
        said += f", opened by {state['after']['event'] or state['after']['id']}"
    if state["missing"]:
        said += f", missing {', '.join(map(_path, state['missing']))}"
    return said


def _utc(text: str) -> str:
    """As in the sentences, which the server makes."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _path(child: list[int]) -> str:
    return ".".join(map(str, child))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
