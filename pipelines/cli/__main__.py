"""Run the command line as ``python -m pipelines.cli``, for machines without ``statecast`` on the PATH."""

from pipelines.cli.app import main

main()
