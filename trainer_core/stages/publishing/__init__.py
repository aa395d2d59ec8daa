"""The files in `outputs/NAME/`: LoRA files, model card, promotion."""
