"""Labels from a recurrent network: one a sequence (many to one), or one at every step (many to many)."""
