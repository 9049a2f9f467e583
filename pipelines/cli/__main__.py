"""Run the command line with ``python -m pipelines.cli`` where ``statecast`` is not on the PATH."""

from pipelines.cli.app import main

main()
