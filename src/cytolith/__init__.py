"""cytolith: cells from 3-D image stacks of any size, found, outlined and measured."""

__version__ = "0.1.0"
