"""What is printed: tables for people, JSON for scripts, notes on standard error."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNFOLDED_WIDTH = 200
"""Columns where there is no terminal to fit into, so that a pipe gets whole ids."""


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """A row for each item; `empty` is said instead when there is none."""
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    if table.row_count:
        _console().print(table)
    else:
        tell(empty)


def print_fields(fields: Mapping[str, Any]) -> None:
    """One thing's fields, a line each; those without a value are left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value not in (None, "", [], {}):
            table.add_row(name, Text(plain(value)))
    _console().print(table)


def tell(message: str) -> None:
    """Something for the person at the terminal, which is no part of the output."""
    typer.echo(plain(message), err=True)


def plain(value: Any) -> str:
    """A value as text that cannot drive the terminal, whoever wrote it."""
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case str():
            text = value
        case list() if all(isinstance(item, str) for item in value):
            text = ", ".join(value)
        case dict() | list():
            text = json.dumps(value, ensure_ascii=False)
        case _:
            text = str(value)
    return "".join(
        char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text
    )


def local_time(text: str | None) -> str:
    """A time as answered, as it is on the wall here."""
    if not text:
        return ""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def _console() -> Console:
    return Console(
        width=None if sys.stdout.isatty() else UNFOLDED_WIDTH, highlight=False, soft_wrap=False
    )


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
