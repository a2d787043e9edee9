"""Image generation: what differs from other kinds."""
