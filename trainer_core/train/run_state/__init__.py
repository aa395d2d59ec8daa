"""Resumable checkpoints of a run."""
