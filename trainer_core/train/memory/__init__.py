"""How a training step fits into memory. Nothing here changes what is learnt."""
