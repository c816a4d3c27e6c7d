"""The cross-entropies of `tf.nn`, computed by fastxent on the CPU: same signatures, same results.

Examples
--------
>>> import tensorflow as tf
>>> import fastxent.tensorflow as fxtf
>>> logits = tf.constant([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
>>> with tf.GradientTape() as tape:
...     tape.watch(logits)
...     loss = fxtf.sparse_softmax_cross_entropy_with_logits(labels=[1, 0], logits=logits)
>>> loss.numpy().round(3)
array([1.417, 2.62 ], dtype=float32)
>>> tape.gradient(loss, logits).numpy().round(2)
array([[ 0.66, -0.76,  0.1 ],
       [-0.93,  0.49,  0.44]], dtype=float32)
"""

try:
    import tensorflow  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastxent.tensorflow needs TensorFlow: pip install 'fastxent[tensorflow]'"
    ) from error

from fastxent.tensorflow.nn import (
    cross_entropy,
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_logits,
    sparse_softmax_cross_entropy_with_logits,
)

__all__ = [
    "cross_entropy",
    "sigmoid_cross_entropy_with_logits",
    "softmax_cross_entropy_with_logits",
    "sparse_softmax_cross_entropy_with_logits",
]
