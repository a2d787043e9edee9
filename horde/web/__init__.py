"""Pages for people: how the horde is doing, and their accounts."""
