"""Which image models exist, and what holds for each of them and for its architecture."""
