"""Benchmarks: `python -m benchmarks`. Each measures ratios within one run, because absolute figures drift."""
