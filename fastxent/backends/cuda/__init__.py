"""The GPU backend: kernels in Numba's CUDA target, launched through the driver."""
