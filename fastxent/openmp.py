"""One OpenMP runtime for the whole process: the remedy where two make each other wait."""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path

from fastxent import checks, environment

__all__ = ["RUNTIMES", "loaded", "share_openmp"]

_LIBRARY = "libgomp.so.1"
RUNTIMES = ("libgomp", "libomp", "libiomp")


def loaded(names: tuple[str, ...] = RUNTIMES, maps: Path = Path("/proc/self/maps")) -> list[str]:
    """File names of the libraries in the process that begin so; none where Linux does not tell."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return []
    files = {Path(line.split(maxsplit=5)[-1]).name for line in lines if "/" in line}
    return sorted(file for file in files if file.startswith(names))


def share_openmp() -> None:
    """Make libraries that are imported from now on use the OpenMP runtime that fastxent uses.

    Wheels of scikit-learn and XGBoost bring a runtime of their own under another name, whose idle
    threads keep the CPUs busy while those of the other runtime want them. docs/threads.md has the
    times. This loads the system's libgomp.so.1 with its symbols for everybody, which concerns the
    whole process and lasts: so it is done only when asked for, here or by FASTXENT_SHARE_OPENMP=1,
    which does it when fastxent is imported. Call it before those libraries are imported.

    Raises
    ------
    BackendError
        If there is no libgomp.so.1 to load.

    Warns
    -----
    RuntimeWarning
        If another OpenMP runtime is in the process already: what uses it goes on to.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.share_openmp()  # doctest: +SKIP
    """
    others = [name for name in loaded() if name != _LIBRARY]
    if others:
        warnings.warn(
            f"{', '.join(others)} is in the process already, and libraries that use it go on to: "
            "call fastxent.share_openmp() before importing them",
            RuntimeWarning,
            stacklevel=2,
        )
    try:
        ctypes.CDLL(_LIBRARY, mode=os.RTLD_GLOBAL)
    except (AttributeError, OSError) as error:  # Windows has no RTLD_GLOBAL
        checks.raise_no_openmp(_LIBRARY, str(error))


if environment.openmp_is_shared():
    share_openmp()
