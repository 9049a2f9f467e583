"""Side-by-side speed runs; nothing of the project imports them."""

from pipelines import memory

memory.use_again()  # as the command line does, before torch and its threads are there
