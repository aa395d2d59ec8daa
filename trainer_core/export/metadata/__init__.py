"""Metadata in the header of a LoRA file."""
