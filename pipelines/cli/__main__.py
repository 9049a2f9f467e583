"""``python -m pipelines.cli``, where the console script is not on the path."""

from pipelines.cli.app import main

main()
