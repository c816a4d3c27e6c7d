"""Bodies of the kernels: plain functions of a machine's few instructions, one module a scheme.

Every module has ``make(variant, geometry)``. They import Numba's CUDA target and are imported only
where something has to be compiled.
"""
