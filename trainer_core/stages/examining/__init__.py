"""How a finished LoRA is examined: what decides the figures, and the measurement."""
