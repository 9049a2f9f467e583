"""Benchmarks of speed and accuracy; no other package imports them."""

from pipelines.workers import process

process.use_again()  # as the command line does; it must run before torch starts its threads
