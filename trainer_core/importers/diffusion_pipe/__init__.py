"""tdrussell's diffusion-pipe."""
