"""What starting costs: `import fastxent` over `import numpy`, and the first call of Numba."""

from __future__ import annotations

import statistics
import tempfile

from fastxent.bench import children

__all__ = ["first_numba_call_seconds", "import_seconds"]

_IMPORT = """
import time
import numpy
start = time.perf_counter()
import fastxent
print(time.perf_counter() - start)
"""

_FIRST_CALL = """
import time
import numpy as np
import fastxent as fx
logits, labels = np.ones((512, 1000), np.float32), np.zeros(512, np.int64)
start = time.perf_counter()
fx.cross_entropy_and_grad(logits, labels, backend="numba")
print(time.perf_counter() - start)
"""


def import_seconds(repeats: int = 9) -> float:
    """Give the median time of `import fastxent` in processes that have imported NumPy."""
    return float(statistics.median(children.answer_to_code(_IMPORT) for _ in range(repeats)))


def first_numba_call_seconds(repeats: int = 3) -> dict[str, float]:
    """Give the time of the first call, `import numba` included.

    Returns
    -------
    dict of str to float
        "cold" with nothing compiled yet, "warm" the median with the kernels kept on disk.
    """
    with tempfile.TemporaryDirectory() as directory:
        environment = {"FASTXENT_CACHE_DIR": directory}
        cold = children.answer_to_code(_FIRST_CALL, environment)
        warm = [children.answer_to_code(_FIRST_CALL, environment) for _ in range(repeats)]
    return {"cold": cold, "warm": statistics.median(warm)}
