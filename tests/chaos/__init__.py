"""Compare streams of real data that are killed at random moments with the same streams without kills."""
