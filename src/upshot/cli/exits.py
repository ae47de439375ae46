"""How the command ends: errors as one clear line on standard error, and an exit code."""

from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from upshot.cli.output import plain, tell
from upshot.core.errors import Problem, UpshotError

ERROR = 1
"""The exit code of what went wrong; 2 is for commands that were written wrong."""


class Commands(TyperGroup):
    """The top of all commands: whatever Upshot refuses is told, and never as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UpshotError as error:
            _tell_error(error)
        except ValidationError as error:
            _tell_settings(error)
        raise typer.Exit(ERROR)


def _tell_error(error: UpshotError) -> None:
    tell(f"Error: {error.message}")
    for problem in error.problems:
        line = _line_of(problem)
        if line not in error.message:
            tell(f"  {line}")


def _line_of(problem: Problem) -> str:
    where = ".".join(map(str, problem.loc))
    return f"{where}: {problem.msg}" if where else problem.msg


def _tell_settings(error: ValidationError) -> None:
    """Settings are read before anything else is; what is wrong is in the environment or .env."""
    for found in error.errors():
        name = "_".join(map(str, found["loc"]))
        message = str(found["msg"]).removeprefix("Value error, ")
        tell(f"Error: UPSHOT_{plain(name).upper()}: {message}")
    tell("'upshot settings --help' says where settings come from.")
