"""Ports for what is to listen at a place that is known before, or again at the same one."""

import random
import socket

PORTS = range(20_000, 30_000)
"""Systems hand out higher ones to whoever asks for any, as most of what the tests start does."""


def free_port() -> int:
    """A port that nobody listens on, and that nobody else is given meanwhile."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as trying:
            trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trying.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
