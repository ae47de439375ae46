"""The `upshot` command."""
