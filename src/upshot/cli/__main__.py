"""Lets `python -m upshot.cli` be the `upshot` command."""

from upshot.cli.entry import main

main()
