"""What happens around the training loop of `lora_checkpoint`."""
