"""`upshot trigger`: what is waited for."""

from typing import Annotated, Any

import typer

from upshot.cli import trigger_backtest, trigger_explain, trigger_keys, trigger_test
from upshot.cli.client import connected, path_of
from upshot.cli.definitions import DefinitionFile, apply, read_definitions
from upshot.cli.options import LIMIT, AsJson, Key, Limit, Url
from upshot.cli.output import local_time, plain, print_fields, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Triggers: which events make which deployment run.")

Name = Annotated[str, typer.Argument(help="The trigger's name.", show_default=False)]


@app.command("list")
def list_all(
    limit: Limit = LIMIT, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Show the triggers there are."""
    with connected(url, key) as client:
        triggers = client.items("/v1/triggers", limit=limit)
    if as_json:
        print_json(triggers)
        return
    print_table(
        ("NAME", "AFTER", "EXPECT", "FOR EACH", "DEPLOYMENT", "ENABLED", "VERSION"),
        (
            (
                trigger["name"],
                trigger.get("after"),
                trigger.get("expect"),
                trigger.get("for_each"),
                _deployments(trigger),
                trigger["enabled"],
                trigger["version"],
            )
            for trigger in triggers
        ),
        empty="There are no triggers. Make one: upshot trigger apply -f trigger.yaml",
    )


@app.command()
def show(name: Name, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show a trigger in full."""
    with connected(url, key) as client:
        _print(client.get(path_of("triggers", name)), as_json)


@app.command("apply")
def apply_file(
    file: DefinitionFile,
    keep_keys: Annotated[
        bool, typer.Option("--keep-keys", help="Keep the open keys although a condition changes.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make triggers, or change them to what a file says. Applying it again changes nothing.

    \b
    Example:
      upshot trigger apply -f - <<END
      name: order-complete
      deployment: post-order-complete
      after: order.created
      expect: order.complete
      for_each: id
      parameters:
        user_id: "{{ event.resource.id }}"
      END
    """
    definitions = read_definitions(file)
    applied = []
    with connected(url, key) as client:
        for definition in definitions:
            outcome, trigger = apply(
                client, "triggers", definition, keys="keep" if keep_keys else None
            )
            applied.append({"name": trigger["name"], "outcome": outcome})
            if not as_json:
                keys = trigger.get("keys") or {}
                counted = ", ".join(f"{count} open keys {what}" for what, count in keys.items())
                said = plain(f"{trigger['name']}: {outcome}")
                typer.echo(f"{said} ({counted})" if counted else said)
    if as_json:
        print_json(applied)


@app.command()
def delete(name: Name, url: Url = None, key: Key = None) -> None:
    """Delete a trigger and its open keys. The runs it made stay."""
    with connected(url, key) as client:
        client.call("DELETE", path_of("triggers", name))
    typer.echo(plain(f"{name}: deleted"))


@app.command()
def enable(name: Name, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Let a trigger see events again."""
    _set_enabled(name, enabled=True, url=url, key=key, as_json=as_json)


@app.command()
def disable(name: Name, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Let a trigger see no more events. Its open keys stay."""
    _set_enabled(name, enabled=False, url=url, key=key, as_json=as_json)


app.command()(trigger_backtest.backtest)
app.command()(trigger_explain.explain)
app.command("keys")(trigger_keys.list_keys)
app.command()(trigger_keys.forget)
app.command("test")(trigger_test.play)


def _deployments(trigger: dict[str, Any]) -> list[str]:
    """What it runs; of several actions, what each of them does."""
    if trigger.get("actions") is None:
        return [trigger["deployment"]]
    return [
        action["deployment"] or "inferred" if action["type"] == "run" else action["type"]
        for action in trigger["actions"]
    ]


def _set_enabled(
    name: str, *, enabled: bool, url: str | None, key: str | None, as_json: bool
) -> None:
    with connected(url, key) as client:
        trigger = client.patch(path_of("triggers", name), {"enabled": enabled})
    if as_json:
        print_json(trigger)
    else:
        typer.echo(plain(f"{name}: {'enabled' if enabled else 'disabled'}"))


def _print(trigger: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(trigger)
        return
    times = {name: local_time(trigger.get(name)) for name in ("created", "updated")}
    print_fields({name.replace("_", " "): value for name, value in {**trigger, **times}.items()})
