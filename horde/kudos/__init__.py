"""Kudos: the books, and what work is worth."""
