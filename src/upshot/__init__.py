"""Upshot, a self-hosted event-trigger server."""

__version__ = "0.1.0"
