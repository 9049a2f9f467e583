"""Label whole sequences, or every step of a series, with a recurrent network."""
