"""The command line, ``statecast``. It imports fast: each command imports its packages when it runs."""

from pipelines.cli.app import main

__all__ = ["main"]
