"""Arrays of any library that follows the Python array API standard."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.interchange.library import Library
from fastxent.precision import Array

__all__ = ["LIBRARY"]


class _ArrayAPI(Library):
    def owns(self, value: Any) -> bool:
        asked = getattr(value, "__array_namespace__", None)
        return asked is not None and hasattr(asked(), "from_dlpack")

    def read(self, value: Any) -> Array:
        return np.from_dlpack(value)

    def give(self, result: Array, like: Any) -> Any:
        return like.__array_namespace__().from_dlpack(result)


LIBRARY = _ArrayAPI()
