"""Side-by-side speed runs; nothing of the project imports them."""
