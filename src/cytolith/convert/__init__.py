"""Volumes copied into other formats: OME-Zarr with coarser levels, TIFF, .npy."""
