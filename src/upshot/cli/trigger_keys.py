"""`upshot trigger keys` and `forget`: what is waited for, for whom."""

import json
from typing import Annotated, Any, Literal

import typer

from upshot.cli.client import connected, path_of
from upshot.cli.options import LIMIT, AsJson, Key, Limit, Url
from upshot.cli.output import local_time, plain, print_json, print_table

Name = Annotated[str, typer.Argument(help="The trigger's name.", show_default=False)]
State = Literal["open", "quiet", "watching", "silent"]
Sort = Literal["age", "deadline"]


def list_keys(
    name: Name,
    value: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Only keys with a value like this, such as 'user-*'."),
    ] = None,
    state: Annotated[State | None, typer.Option(help="Only keys in this state.")] = None,
    sort: Annotated[
        Sort,
        typer.Option(
            help="age: the oldest first. deadline: the next to end, without what has no end."
        ),
    ] = "age",
    limit: Limit = LIMIT,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show what is open for a trigger, key by key.

    \b
    Examples:
      upshot trigger keys order-complete --value 'user-1*'
      upshot trigger keys backup-missing --sort deadline --limit 5
    """
    with connected(url, key) as client:
        found = client.items(
            path_of("triggers", name, "keys"), limit=limit, value=value, state=state, sort=sort
        )
    if as_json:
        print_json(found)
        return
    print_table(
        ("KEY", "CHILD", "STATE", "COUNT", "STARTED", "DEADLINE", "OPENED BY"),
        (
            (
                _pairs(one),
                ".".join(map(str, one["child"] or ())),
                one["state"],
                f"{one['count']}/{one['threshold']}",
                local_time(one["started"]),
                local_time(one["deadline"]),
                (one["after"] or {}).get("id"),
            )
            for one in found
        ),
        empty="No such key is open.",
    )


def forget(
    name: Name,
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VALUE]...",
            help="The key: its values, in the order of for_each. None for a trigger without.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Forget what is open for a key. Nothing fires, and the next event begins anew.

    \b
    Example:
      upshot trigger forget order-complete 123
    """
    wanted = json.dumps(values or [])
    with connected(url, key) as client:
        answer = client.call("DELETE", path_of("triggers", name, "keys"), query={"key": wanted})
    if answer.status == 202:
        typer.echo(plain(f"{name}: {wanted} will be forgotten, see 'upshot status'"))
    else:
        typer.echo(plain(f"{name}: {wanted} forgotten"))


def _pairs(one: dict[str, Any]) -> str:
    """The key by its labels; the one key of a trigger without `for_each` is a dash."""
    return ", ".join(f"{label}={value}" for label, value in one["labels"].items()) or "-"
