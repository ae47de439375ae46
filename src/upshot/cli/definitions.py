"""Definitions in files, and bringing a server to what they say."""

import json
import sys
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from upshot.cli.client import Client, path_of
from upshot.core.errors import Invalid, UpshotError

DefinitionFile = Annotated[
    Path,
    typer.Option(
        "--file", "-f", help="YAML or JSON with one definition, or several; - is standard input."
    ),
]


class Outcome(StrEnum):
    """What applying a definition did. `replaced`: its secrets cannot be seen, so who knows."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REPLACED = "replaced"


class NotApplied(UpshotError):
    """A definition was refused; those before it are applied."""


def read_definitions(file: Path) -> list[dict[str, Any]]:
    """The definitions in a file: a document, a list of them, or several documents.

    Raises:
        Invalid: it cannot be read, or what it holds is none.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise Invalid(f"{file} cannot be read: {error}") from None
    found = [one for each in documents for one in (each if isinstance(each, list) else [each])]
    if not found:
        raise Invalid(f"{file} holds no definition.")
    return [_definition(one, f"{file}, definition {n}") for n, one in enumerate(found, start=1)]


def _definition(document: Any, where: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise Invalid(f"{where} is no object with fields, such as 'name: order-complete'.")
    if not isinstance(document.get("name"), str):
        raise Invalid(f"{where} has no name. Add one: 'name: order-complete'.")
    try:
        # YAML reads 2026-01-31 as a date, which JSON does not have.
        definition: dict[str, Any] = json.loads(json.dumps(document, default=_json_of))
    except (TypeError, ValueError) as error:
        raise Invalid(f"{where} is no JSON: {error}.") from None
    return definition


def _json_of(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{value!r} has no form in JSON")


def apply(
    client: Client, noun: str, definition: dict[str, Any], *, keys: str | None = None
) -> tuple[Outcome, Any]:
    """PUT a definition; answers what that did, and what is there now."""
    name = definition["name"]
    path = path_of(noun, name)
    before = client.find(path)
    written = {field: value for field, value in definition.items() if field != "name"}
    try:
        answer = client.call("PUT", path, document=written, query={"keys": keys})
    except UpshotError as error:
        raise NotApplied(f"{name}: {error.message}", error.problems) from None
    return _outcome(before, answer.document, written), answer.document


def _outcome(before: Any, after: Any, written: dict[str, Any]) -> Outcome:
    if before is None:
        return Outcome.CREATED
    if _comparable(before) != _comparable(after):
        return Outcome.CHANGED
    runner = written.get("runner")
    if isinstance(runner, dict) and (runner.get("secret") or runner.get("headers")):
        return Outcome.REPLACED
    return Outcome.UNCHANGED


def _comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Without what is no part of a definition."""
    return {name: value for name, value in document.items() if name not in ("updated", "keys")}
