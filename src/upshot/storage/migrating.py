"""Brings a database's schema to this version's, by alembic."""

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from upshot.storage.database import WrongDatabase


def upgrade(connection: Connection) -> None:
    """Run what is missing.

    Raises:
        WrongDatabase: a newer version has migrated it.
    """
    with as_file(files("upshot") / "migrations") as location:
        config = Config()
        config.set_main_option("script_location", str(location))
        revision = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory(str(location)).walk_revisions()}
        if revision is not None and revision not in known:
            raise WrongDatabase(
                f"The database is at schema {revision}, which this version does not know. "
                "It was migrated by a newer Upshot: run that version."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
