"""The loss of arrays in files that are larger than memory: .npy files, numpy.memmap, HDF5.

>>> import os
>>> import tempfile
>>> import numpy as np
>>> import fastxent.on_disk
>>> with tempfile.TemporaryDirectory() as folder:
...     path = os.path.join(folder, "logits.npy")
...     np.save(path, np.zeros((4000, 10), np.float32))
...     loss = fastxent.on_disk.cross_entropy(path, np.full(4000, 3), memory_budget=10_000)
>>> round(float(loss), 4)
2.3026
"""

from fastxent.on_disk.cross_entropy import cross_entropy, cross_entropy_and_grad

__all__ = ["cross_entropy", "cross_entropy_and_grad"]
