"""One file a command of `lora-assets`."""
