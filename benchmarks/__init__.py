"""Side-by-side speed runs; nothing of the project imports them."""

from pipelines.workers import process

process.use_again()  # as the command line does, before torch and its threads are there
