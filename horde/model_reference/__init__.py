"""Which models exist, and what holds for each of them and for image models' architectures."""
