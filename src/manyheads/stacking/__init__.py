"""Several models trained as one: stacked weights, one pass for all."""
