"""Scripts that kill streams, or upgrade Beam between runs, and compare them with uninterrupted streams."""
