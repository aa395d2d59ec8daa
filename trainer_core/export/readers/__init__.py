"""Reads LoRA files."""
