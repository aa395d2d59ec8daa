"""Metrics, plots and trackers of a run."""
