"""`python -m benchmarks [name ...]`: measure, show, and keep the results of a whole run."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import (
    backtest,
    deliver,
    evaluate,
    growth,
    ingest,
    latency,
    memory,
    product,
    report,
    singles,
    start,
    stored,
    where,
)
from benchmarks.bench import Bench
from benchmarks.figures import Measured
from benchmarks.processes import Failed, child, end_in_order

BENCHMARKS: dict[str, Callable[[Bench], Awaitable[Measured]]] = {
    "ingest": ingest.measure,
    "singles": singles.measure,
    "evaluate": evaluate.measure,
    "deliver": deliver.measure,
    "latency": latency.measure,
    "triggers": growth.measure_triggers,
    "keys": growth.measure_keys,
    "stored": stored.measure,
    "backtest": backtest.measure,
    "where": where.measure,
    "memory": memory.measure,
    "start": start.measure,
}
ROUNDS, ROUNDS_QUICK = 5, 2

# Tables are wider than what a pipe or a small window claims to be.
console = Console(width=max(Console().width, 120))


def _known(names: list[str]) -> list[str]:
    for name in names:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(BENCHMARKS)}.")
    return names


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            callback=lambda names: _known(names or []),
            help=f"Which: {', '.join(BENCHMARKS)}. All of them, if none is named.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds that count, after one to warm up.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rounds of a fifth of the work: a look.")
    ] = False,
) -> None:
    """Measure this machine's figures. A whole run of five rounds or more is kept in
    benchmarks/results.
    """
    chosen = names or list(BENCHMARKS)
    rounds = rounds or (ROUNDS_QUICK if quick else ROUNDS)
    told = {**report.machine(), **report.versions()}
    console.print(_listed(told))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            postgres = runner.run(_settings())
            console.print("", f"Postgres with {_listed(postgres)}", "", sep="\n")
            measured = runner.run(_measure(chosen, rounds=rounds, is_quick=quick))
    except Failed as failed:
        console.print(f"[red]The benchmark failed:[/] {failed}", soft_wrap=True)
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped; nothing is left running.")
        raise typer.Exit(130) from None
    if chosen == list(BENCHMARKS) and not quick and rounds >= ROUNDS:
        report.write(measured, rounds=rounds, postgres=postgres)
        console.print("Written to benchmarks/results/latest.json, latest.md and latest.svg.")


def _listed(told: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in told.items())


async def _settings() -> dict[str, str]:
    end_in_order()
    return await product.postgres_settings()


async def _measure(names: list[str], *, rounds: int, is_quick: bool) -> list[Measured]:
    end_in_order()
    measured = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    async with child("benchmarks.load") as load, child("benchmarks.runner") as runner:
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            for name in names:
                task = progress.add_task(name, total=None)
                bench = Bench(
                    rounds=rounds,
                    is_quick=is_quick,
                    load=load,
                    runner=runner,
                    progress=progress,
                    task=task,
                )
                measured.append(await BENCHMARKS[name](bench))
                progress.remove_task(task)
                report.show(progress.console, measured[-1])
    return measured


if __name__ == "__main__":
    typer.run(main)
