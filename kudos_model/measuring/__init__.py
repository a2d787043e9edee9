"""Image generation as workers do it, with random weights, for measuring how long it takes."""
