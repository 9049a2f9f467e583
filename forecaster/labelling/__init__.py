"""Label whole sequences (many to one) or every step of a series (many to many) with a recurrent network."""
