"""Filters trained on annotated cells."""
