"""`upshot deployment`: what is run, and where."""

import json
from typing import Annotated

import typer

from upshot.cli.client import connected, path_of
from upshot.cli.definitions import DefinitionFile, apply, read_definitions
from upshot.cli.options import LIMIT, AsJson, Key, Limit, Url
from upshot.cli.output import local_time, plain, print_fields, print_json, print_table
from upshot.core.errors import Invalid

app = typer.Typer(no_args_is_help=True, help="Deployments: what runs, and the runner it runs on.")

Name = Annotated[str, typer.Argument(help="The deployment's name.", show_default=False)]


@app.command("list")
def list_all(
    limit: Limit = LIMIT, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Show the deployments there are."""
    with connected(url, key) as client:
        deployments = client.items("/v1/deployments", limit=limit)
    if as_json:
        print_json(deployments)
        return
    print_table(
        ("NAME", "RUNNER", "ENABLED", "AT ONCE", "DESCRIPTION"),
        (
            (
                deployment["name"],
                deployment["runner"].get("url") or deployment["runner"]["type"],
                deployment.get("disabled_reason") or deployment["enabled"],
                deployment["max_concurrency"],
                deployment["description"],
            )
            for deployment in deployments
        ),
        empty="There are no deployments. Make one: upshot deployment apply -f deployment.yaml",
    )


@app.command()
def show(name: Name, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show a deployment in full, but for its secrets."""
    with connected(url, key) as client:
        deployment = client.get(path_of("deployments", name))
    if as_json:
        print_json(deployment)
        return
    runner = {f"runner {field}": value for field, value in deployment.pop("runner").items()}
    times = {field: local_time(deployment.get(field)) for field in ("created", "updated")}
    fields = {**deployment, **runner, **times}
    print_fields({field.replace("_", " "): value for field, value in fields.items()})


@app.command("apply")
def apply_file(
    file: DefinitionFile, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Make deployments, or change them to what a file says.

    \b
    Example:
      upshot deployment apply -f - <<END
      name: post-order-complete
      runner:
        type: webhook
        url: http://127.0.0.1:9000/run
      END
    """
    definitions = read_definitions(file)
    applied = []
    with connected(url, key) as client:
        for definition in definitions:
            outcome, deployment = apply(client, "deployments", definition)
            applied.append({"name": deployment["name"], "outcome": outcome})
            if not as_json:
                typer.echo(plain(f"{deployment['name']}: {outcome}"))
    if as_json:
        print_json(applied)


@app.command()
def delete(name: Name, url: Url = None, key: Key = None) -> None:
    """Delete a deployment. Its open runs are cancelled; one that triggers run is kept."""
    with connected(url, key) as client:
        client.call("DELETE", path_of("deployments", name))
    typer.echo(plain(f"{name}: deleted"))


@app.command()
def run(
    name: Name,
    parameters: Annotated[
        str,
        typer.Option(help="A JSON object, laid over the deployment's defaults."),
    ] = "{}",
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Run a deployment now.

    \b
    Example:
      upshot deployment run post-order-complete --parameters '{"user_id": "123"}'
    """
    with connected(url, key) as client:
        asked = {"parameters": _json_object(parameters)}
        made = client.call("POST", path_of("deployments", name, "runs"), document=asked).document
    if as_json:
        print_json(made)
    else:
        typer.echo(plain(f"run {made['id']}: {made['state']}"))


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"--parameters is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise Invalid('--parameters is no JSON object, such as \'{"user_id": "123"}\'.')
    return value
