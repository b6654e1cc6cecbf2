"""Which tasks should share a model: the best division by promised gains, then decided by training."""
