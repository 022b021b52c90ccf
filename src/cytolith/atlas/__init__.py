"""Cells on coarser grids: density maps, and counts per region of an annotation."""
