"""Styles and collections: saved prompt templates with models and parameters, which others may use."""
