"""`upshot settings`: what is set, and where that comes from."""

import os
from datetime import timedelta
from typing import Any

from pydantic import SecretStr
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from upshot.cli.client import ClientSettings
from upshot.cli.options import AsJson
from upshot.cli.output import print_json, print_table, tell
from upshot.core.language import seconds
from upshot.settings import Settings
from upshot.storage.database import without_password

HIDDEN = "***"


def show(as_json: AsJson = False) -> None:
    """Show every setting, its value and its source; secrets are hidden.

    A setting is read from the environment (UPSHOT_PORT=9000), else from a file named .env in the
    current directory, else it has its default. The options of 'upshot serve' override them all.
    """
    rows = _rows(Settings())
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("SETTING", "VALUE", "SOURCE", "WHAT IT IS"),
            ([_for_people(value) for value in row.values()] for row in rows),
            empty="",
        )
    for name in _unknown():
        tell(f"{name} is set, and Upshot has no such setting.")


def _rows(settings: Settings) -> list[dict[str, Any]]:
    environment = EnvSettingsSource(Settings)()
    dotenv = DotEnvSettingsSource(Settings)()
    rows = []
    for name, field in Settings.model_fields.items():
        source = "environment" if name in environment else ".env" if name in dotenv else "default"
        rows.append(
            {
                "setting": _variable(name),
                "value": _visible(name, getattr(settings, name)),
                "source": source,
                "description": field.description or "",
            }
        )
    return rows


def _visible(name: str, value: Any) -> Any:
    match value:
        case SecretStr() if name == "database_url":
            return without_password(value.get_secret_value())
        case SecretStr():
            return HIDDEN
        case timedelta():
            return seconds(value)
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)


def _for_people(value: Any) -> Any:
    return "(none)" if value is None else value


def _variable(name: str) -> str:
    return f"UPSHOT_{name.upper()}"


def _unknown() -> list[str]:
    """A misspelt UPSHOT_PROT is otherwise never noticed."""
    known = {_variable(name) for name in {**Settings.model_fields, **ClientSettings.model_fields}}
    return sorted(
        name
        for name in os.environ
        if name.upper().startswith("UPSHOT_")
        and not name.upper().startswith("UPSHOT_TEST_")
        and name.upper() not in known
    )
