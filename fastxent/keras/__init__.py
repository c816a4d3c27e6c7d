"""The categorical cross-entropies of Keras 3, computed by fastxent under Keras's own backend.

Examples
--------
>>> import numpy as np
>>> import fastxent.keras as fxk
>>> loss = fxk.SparseCategoricalCrossentropy(from_logits=True)
>>> logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
>>> round(float(loss(np.array([1, 0]), logits)), 3)
2.019
"""

try:
    import keras  # noqa: F401
except ImportError as error:
    raise ImportError("fastxent.keras needs Keras: pip install 'fastxent[tensorflow]'") from error

from fastxent.keras.losses import CategoricalCrossentropy, SparseCategoricalCrossentropy

__all__ = ["CategoricalCrossentropy", "SparseCategoricalCrossentropy"]
