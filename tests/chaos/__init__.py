"""Streams of real data that are killed at random moments, against the same streams left alone."""
