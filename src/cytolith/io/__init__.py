"""Files to arrays and back: the only place that imports tifffile, zarr and pyarrow."""
