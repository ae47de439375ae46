"""What can be set, by environment, `.env` or the command's options."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from upshot.core.language import Duration
from upshot.core.networks import NetworkPolicy
from upshot.storage.embedded import default_data_dir

Stage = Literal["api", "evaluate", "deliver", "maintain"]
STAGES: tuple[Stage, ...] = ("api", "evaluate", "deliver", "maintain")

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


def _checked_networks(text: str) -> str:
    NetworkPolicy.parse(text)
    return text


class Settings(BaseSettings):
    """Each is read from `UPSHOT_<NAME>`; durations are seconds or ISO 8601 (`P30D`)."""

    model_config = SettingsConfigDict(
        env_prefix="UPSHOT_", env_file=".env", extra="ignore", validate_default=True
    )

    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8484, ge=0, le=65535, description="The port to listen on.")
    database_url: SecretStr | None = Field(
        default=None,
        description="postgresql://user:password@host:5432/database. Unset: an embedded Postgres "
        "in the data directory.",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir, description="Where the embedded Postgres lives."
    )
    api_key: SecretStr | None = Field(
        default=None, description="An admin key that is compared and never stored."
    )
    insecure: bool = Field(
        default=False, description="Start without API keys on an address that is not loopback."
    )
    event_retention: Duration = Field(
        default=timedelta(days=30), description="How long events are kept, by days."
    )
    run_retention: Duration = Field(
        default=timedelta(days=90), description="How long finished runs are kept."
    )
    key_retention: Duration = Field(
        default=timedelta(days=90),
        description="How long an open key without a limit of time is kept untouched.",
    )
    runner_networks: Annotated[str, AfterValidator(_checked_networks)] = Field(
        default="public,private,loopback",
        description="Where runners may be: public, private, loopback, or networks such as "
        "10.1.0.0/16. Link-local and metadata addresses never.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log line to write."
    )
