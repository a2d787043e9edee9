"""Prompts that must not be served, and addresses that may not ask for a while."""
