"""The engine: torch and diffusers. Knows nothing of Ray, Hydra or disk layout; importing this package loads neither."""
