"""Dagster's web pages behind a guard. `python -m lora_assets.web` starts them."""
