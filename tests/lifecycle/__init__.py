"""Train, retrain, promote and roll back a model while a stream runs with it (``make lifecycle``)."""
