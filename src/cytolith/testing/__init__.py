"""Shipped test material: synthetic volumes with known truth and drawing strategies."""
