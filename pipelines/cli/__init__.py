"""Define the command line ``statecast``; each command imports its packages when it runs, to start fast."""

from pipelines.cli.app import main

__all__ = ["main"]
