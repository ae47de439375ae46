"""The results: on the screen, as JSON, Markdown and a picture. No names of machines, no paths."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import picture
from benchmarks.figures import RATIO, Figure, Measured
from upshot import __version__
from upshot.storage import embedded

RESULTS = Path(__file__).parent / "results"
GIB = 1024**3
PACKAGES = ("asyncpg", "uvicorn", "fastapi", "aiohttp")


def machine() -> dict[str, str]:
    """What the figures depend on most."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    return {
        "upshot": __version__,
        "python": platform.python_version(),
        "postgres": f"{embedded.MAJOR} ({embedded.WHEEL} {version(embedded.WHEEL)})",
        **{name: version(name) for name in PACKAGES},
    }


def show(console: Console, measured: Measured) -> None:
    table = Table(title=measured.title, title_justify="left", show_edge=False)
    table.add_column("figure", min_width=44, no_wrap=True)
    for column in ("median", "spread", "mark"):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in measured.figures:
        table.add_row(figure.name, _median(figure), _spread(figure), _mark(figure))
    console.print(table, "", sep="\n")


def write(
    measured: Sequence[Measured],
    *,
    rounds: int,
    postgres: Mapping[str, str],
    folder: Path = RESULTS,
) -> None:
    """Write `latest.json`, `latest.md` and `latest.svg`. `postgres`: the settings it ran with."""
    folder.mkdir(exist_ok=True)
    taken = datetime.now(UTC).date().isoformat()
    document = {
        "taken": taken,
        "rounds": rounds,
        "machine": machine(),
        "versions": versions(),
        "postgres_settings": dict(postgres),
        "benchmarks": [_document(one) for one in measured],
    }
    (folder / "latest.json").write_text(json.dumps(document, indent=2) + "\n")
    text = _markdown(measured, taken=taken, rounds=rounds, postgres=postgres)
    (folder / "latest.md").write_text(text)
    (folder / "latest.svg").write_text(picture.draw(_bars(measured)))


def _document(measured: Measured) -> dict[str, Any]:
    return {
        "name": measured.name,
        "title": measured.title,
        "settings": measured.settings,
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit.name,
                "median": round(figure.median, 4),
                "low": round(figure.low, 4),
                "high": round(figure.high, 4),
                "rounds": [round(value, 4) for value in figure.rounds],
                "at_least": figure.at_least,
                "at_most": figure.at_most,
                "is_met": figure.is_met,
            }
            for figure in measured.figures
        ],
    }


def _bars(measured: Sequence[Measured]) -> list[picture.Bar]:
    """Of each ratio that is held to a mark."""
    return [
        picture.Bar(
            benchmark=one.name,
            name=figure.name,
            value=figure.median,
            low=figure.low,
            high=figure.high,
            mark=figure.at_least,
        )
        for one in measured
        for figure in one.figures
        if figure.unit is RATIO and figure.at_least is not None
    ]


def _markdown(
    measured: Sequence[Measured], *, taken: str, rounds: int, postgres: Mapping[str, str]
) -> str:
    told = {**machine(), **versions()}
    lines = [
        "# What `make bench` measured",
        "",
        f"Taken on {taken}: {rounds} rounds after one to warm up, median and spread "
        "(lowest to highest). `README.md` in the folder above says what is measured how.",
        "",
        ", ".join(f"{name} {value}" for name, value in told.items()) + ".",
        "",
        "Upshot's settings are its defaults. Those of its Postgres that are not Postgres': "
        + ", ".join(f"`{name} = {value}`" for name, value in postgres.items())
        + ".",
        "",
        "![Each marked ratio as a bar, and its mark as a line](latest.svg)",
    ]
    for one in measured:
        settings = ", ".join(f"{value:,} {name}" for name, value in _named(one))
        lines += ["", f"## {one.title}", "", one.note, "", f"Settings: {settings}.", ""]
        lines += ["| figure | median | spread | mark |", "|---|---:|---:|---:|"]
        lines += [
            f"| {figure.name} | {_median(figure)} | {_spread(figure)} | {_mark(figure)} |"
            for figure in one.figures
        ]
    return "\n".join(lines) + "\n"


def _named(measured: Measured) -> list[tuple[str, float]]:
    return [(name.replace("_", " "), value) for name, value in measured.settings.items()]


def _median(figure: Figure) -> str:
    return f"{figure.unit.write(figure.median)} {figure.unit.name}"


def _spread(figure: Figure) -> str:
    return f"{figure.unit.write(figure.low)} to {figure.unit.write(figure.high)}"


def _mark(figure: Figure) -> str:
    if figure.at_least is not None:
        bound = f"at least {figure.unit.write(figure.at_least)}"
    elif figure.at_most is not None:
        bound = f"at most {figure.unit.write(figure.at_most)}"
    else:
        return ""
    return f"{bound}: {'met' if figure.is_met else 'missed'}"


def _processor() -> str:
    """Linux tells the model in a file; elsewhere the platform module must do."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
