"""Prompts, pipelines and LoRA files for `samples` and `metrics`."""
