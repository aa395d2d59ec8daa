"""Held-out pictures, the length of a run, and the order of batches."""
