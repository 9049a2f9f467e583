"""Compare streams that are killed, or upgrade Beam between their runs, with uninterrupted streams."""
