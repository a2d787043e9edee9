"""How this horde is doing."""
