"""The command line, ``statecast``. Importing it is cheap: each command imports what it needs when it runs."""

from pipelines.cli.app import main

__all__ = ["main"]
