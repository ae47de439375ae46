"""`python -m benchmarks.against_prefect --postgres URL`: the same story on Prefect's own server.

Both get the same requests, one after the other, on the same Postgres. Counted is what each one's
database says, and what was lost is shown; Upshot may lose nothing, or the whole is a failure.
"""

import asyncio
import json
import platform
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.prefect_story import WAVE, Played, Timed, play, time_calls
from benchmarks.processes import Failed, end_in_order
from benchmarks.report import RESULTS, machine
from benchmarks.rivals import A_POSTGRES, install_prefect, postgres_of, prefect, upshot
from upshot import __version__

EVENTS, EVENTS_QUICK, EVENTS_MAX = 4_000, 400, 100_000
SECONDS, SECONDS_QUICK, SECONDS_MAX = 120, 10, 1_800
BATCH = 100
PER_SECOND = 10

console = Console(width=max(Console().width, 120))

Row = tuple[str, str, str]


def main(
    postgres: Annotated[
        str,
        typer.Option(
            help=f"A Postgres whose user may make databases: postgresql://user@host:port/postgres. "
            f"{A_POSTGRES}",
            show_default=False,
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="A look: a few events, not kept.")] = False,
    events: Annotated[
        int | None, typer.Option(min=2, max=EVENTS_MAX, help="How many in batches.")
    ] = None,
    seconds: Annotated[
        int | None,
        typer.Option(min=1, max=SECONDS_MAX, help=f"How long at {PER_SECOND} events a second."),
    ] = None,
) -> None:
    """Measure both. A whole run is kept in benchmarks/results/against-prefect.*."""
    users = (events or (EVENTS_QUICK if quick else EVENTS)) // 2
    seconds = seconds or (SECONDS_QUICK if quick else SECONDS)
    try:
        document = asyncio.run(_measure(postgres, users=users, seconds=seconds))
    except Failed as failed:
        console.print(f"[red]The comparison failed:[/] {failed}", soft_wrap=True)
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped; nothing is left running.")
        raise typer.Exit(130) from None
    console.print("", _table(document), "", sep="\n")
    if not quick:
        write(document)
        console.print("Written to benchmarks/results/against-prefect.json and against-prefect.md.")


async def _measure(postgres: str, *, users: int, seconds: int) -> dict[str, Any]:
    end_in_order()
    told: dict[str, str] = {
        "postgres": await postgres_of(postgres),
        "upshot": __version__,
        "python": platform.python_version(),
    }
    console.print("Prefect's server gets an environment of its own, unless it has one ...")
    told |= await install_prefect()
    console.print(", ".join(f"{name} {value}" for name, value in {**machine(), **told}.items()))
    document: dict[str, Any] = {
        "taken": datetime.now(UTC).date().isoformat(),
        "command": f"python -m benchmarks.against_prefect --postgres ... --events {2 * users} "
        f"--seconds {seconds}",
        "machine": machine(),
        "versions": told,
        "settings": {
            "events": 2 * users,
            "events_per_request": BATCH,
            "paced_events_per_second": PER_SECOND,
            "paced_seconds": seconds,
        },
    }
    for serving in (prefect, upshot):
        async with serving(postgres) as rival:
            console.print(f"{rival.title}: {2 * users:,} events in batches of {BATCH} ...")
            played = await play(rival, users=users, batch=BATCH)
            console.print(f"{rival.title}: {PER_SECOND} events/s for {seconds} s ...")
            timed = await time_calls(rival, seconds=seconds, per_second=PER_SECOND)
            document[rival.title.lower()] = _told(played, timed)
            # Told at once: what comes next may fail.
            console.print(json.dumps(document[rival.title.lower()]), soft_wrap=True)
            if serving is upshot and not (played.is_whole and timed.is_whole):
                raise Failed(f"Upshot lost something: {played}, {timed}")
    return document


def _told(played: Played, timed: Timed) -> dict[str, Any]:
    """The figures of one server."""
    return {
        "events accepted": played.accepted,
        "events stored": played.stored,
        "automations fired": played.fired,
        "runs made": played.runs,
        "runs lost": played.lost,
        "runs made twice": played.twice,
        "seconds to post": round(played.posted_seconds, 2),
        "seconds from first post to last run": round(played.seconds, 2),
        "given up while runs still came": played.is_cut_short,
        "events a second, posted to run": round(2 * played.users_with_runs / played.seconds)
        if played.seconds
        else None,
        "paced: events accepted": timed.accepted,
        "paced: webhooks called": timed.called,
        "paced: calls lost": timed.lost,
        "paced: calls made twice": timed.twice,
        "paced: post to webhook, p50 ms": _rounded(timed.percentile(0.5)),
        "paced: post to webhook, p99 ms": _rounded(timed.percentile(0.99)),
        "paced: post to webhook, slowest ms": _rounded(timed.percentile(1.0)),
    }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)


def _rows(document: dict[str, Any]) -> list[Row]:
    names = document["upshot"].keys()
    return [
        (name, _written(document["prefect"][name]), _written(document["upshot"][name]))
        for name in names
    ]


def _written(value: float | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}"


def _table(document: dict[str, Any]) -> Table:
    table = Table(title="The same story on both", title_justify="left", show_edge=False)
    table.add_column("", min_width=44, no_wrap=True)
    for column in ("Prefect", "Upshot"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in _rows(document):
        table.add_row(*row)
    return table


def write(document: dict[str, Any]) -> None:
    """Write `against-prefect.json` and `against-prefect.md`."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "against-prefect.json").write_text(json.dumps(document, indent=2) + "\n")
    told = {**document["machine"], **document["versions"]}
    settings = document["settings"]
    lines = [
        "# The same story on Prefect's own server",
        "",
        f"Taken on {document['taken']} by `{document['command']}`.",
        "",
        ", ".join(f"{name} {value}" for name, value in told.items()) + ".",
        "",
        "Both servers got the same requests, one server after the other, on the same Postgres, "
        f"each with its defaults. Users create orders, {WAVE} of them one after the other, and "
        "then complete them, so that every second event makes an automation run a deployment: "
        f"{settings['events']:,} events, {settings['events_per_request']} a request, on one "
        "connection. Then events came one by one, "
        f"{settings['paced_events_per_second']} a second for {settings['paced_seconds']} s, and "
        "every second one made an automation call a webhook; timed is from when the post was due "
        "to the call's arrival. Counted is what each one's database holds, and what had arrived "
        "when nothing had come for a minute.",
        "",
        "Waves, because Prefect's server takes up several events at once: an order that is "
        "complete within the request that creates it fires nothing there. Upshot keeps the order "
        "in which a client sends.",
        "",
        "| | Prefect | Upshot |",
        "|---|---:|---:|",
        *(f"| {name} | {one} | {other} |" for name, one, other in _rows(document)),
    ]
    (RESULTS / "against-prefect.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
