"""The life of a model from its first training to a rollback, while a stream runs (``make lifecycle``)."""
