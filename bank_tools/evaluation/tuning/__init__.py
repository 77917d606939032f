"""Choosing among settings with a few rejects at hand."""
