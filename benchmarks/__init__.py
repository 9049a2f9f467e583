"""Benchmarks of speed and accuracy; no other package imports them."""

from pipelines.workers import process

process.reuse_freed_memory()  # as the command line does; it must run before torch starts its threads
