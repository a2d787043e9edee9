"""The central server of an AI Horde."""

__version__ = "0.1.0"
