"""The dense kernels on a GPU: the same names as beside them on the CPU, with CuPy arrays in and out.

Only what touches every voxel is here. Each result equals that of the CPU to the last bit: the same operations in the
same order, no contraction, no fast mathematics. CuPy is imported when a kernel first runs.
"""
