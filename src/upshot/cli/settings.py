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

HIDDEN = "***"
DAY = timedelta(days=1)


def show(as_json: AsJson = False) -> None:
    """Show what is set, and where; secrets are hidden.

    A setting is read from the environment (UPSHOT_PORT=9000), else from a file named .env in the
    current directory, else it has its default. The options of 'upshot serve' override them all.
    """
    settings = Settings()
    if as_json:
        print_json(_rows(settings))
    else:
        print_table(
            ("SETTING", "VALUE", "SOURCE", "WHAT IT IS"),
            (
                (row["setting"], _for_people(row, value), row["source"], row["description"])
                for row, (_, value) in zip(_rows(settings), settings, strict=True)
            ),
            empty="",
        )
    for name in _unknown():
        tell(f"{name} is set, and Upshot has no such setting.")


def _rows(settings: Settings) -> list[dict[str, Any]]:
    environment = EnvSettingsSource(Settings)()
    dotenv = DotEnvSettingsSource(Settings)()
    rows = []
    for name, value in settings:
        source = "environment" if name in environment else ".env" if name in dotenv else "default"
        rows.append(
            {
                "setting": _variable(name),
                "value": _database_address(settings) if name == "database_url" else _visible(value),
                "source": source,
                "description": Settings.model_fields[name].description or "",
            }
        )
    return rows


def _database_address(settings: Settings) -> str | None:
    if settings.database_url is None:
        return None
    from upshot.cli.on_database import address_of

    return address_of(settings)


def _visible(value: Any) -> Any:
    match value:
        case SecretStr():
            return HIDDEN
        case timedelta():
            return seconds(value)
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)


def _for_people(row: dict[str, Any], value: Any) -> Any:
    if not isinstance(value, timedelta):
        return "(none)" if row["value"] is None else row["value"]
    days = value / DAY
    return f"{days:.0f} days" if days.is_integer() else f"{row['value']} s"


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
