"""fastxent for JAX: losses and softmax that `jit`, `grad`, `jvp`, `vmap`, `scan`, `shard_map` know.

>>> import jax.numpy as jnp
>>> import fastxent.jax
>>> round(float(fastxent.jax.cross_entropy(jnp.zeros((4, 10)), jnp.array([3, 1, 4, 1]))), 4)
2.3026
"""

try:
    import jax as _jax  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastxent.jax needs JAX, which is not installed: pip install 'fastxent[jax]'"
    ) from error

from fastxent.jax.cross_entropy import cross_entropy
from fastxent.jax.handlers import info
from fastxent.jax.linear import linear_cross_entropy
from fastxent.jax.softmax import log_softmax, logsumexp, softmax
from fastxent.jax.vocab_parallel import vocab_parallel_cross_entropy

__all__ = [
    "cross_entropy",
    "info",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "softmax",
    "vocab_parallel_cross_entropy",
]
