"""Noise, timesteps and losses: pure functions, mathematics in float32."""
