"""The embedded Postgres: a real server in the data directory, shared by every `upshot` using it."""

from upshot.storage.embedded.claims import Embedded, start
from upshot.storage.embedded.data_dir import cluster_of, default_data_dir, socket_of
from upshot.storage.embedded.errors import EmbeddedUnavailable
from upshot.storage.embedded.installation import MAJOR, WHEEL

__all__ = [
    "MAJOR",
    "WHEEL",
    "Embedded",
    "EmbeddedUnavailable",
    "cluster_of",
    "default_data_dir",
    "socket_of",
    "start",
]
