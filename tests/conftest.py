"""Settings that must be there before anything imports numba."""

import os

# More threads than cores are real threads then, and "same bits for 5 threads" a real test.
os.environ.setdefault("NUMBA_NUM_THREADS", "8")
