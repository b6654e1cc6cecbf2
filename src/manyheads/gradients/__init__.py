"""Gradients per task and their Gramian: which weights are shared, fast rules per layer, exact solvers."""
