"""`python -m upshot` is the `upshot` command."""

from upshot.cli.entry import main

main()
