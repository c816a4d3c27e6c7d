"""Compiled code on disk: a directory of the user's own, and files that are whole or not used.

Each state of sources and versions (a stamp) has a directory of its own, so nothing old is ever
found. What lies there gets executed: the directory must belong to the user alone. Each file
carries a checksum; one that is cut short or altered is as good as absent.

FASTXENT_CACHE_DIR chooses the place, FASTXENT_NUMBA_CACHE=0 turns the cache off.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from fastxent import environment

__all__ = ["place", "read", "stamp_of", "write"]

_DIGEST_BYTES = 32


def stamp_of(sources: Iterable[Path], versions: object) -> bytes:
    """Hash of what compiled code depends on: files, and anything whose repr tells versions."""
    state = hashlib.sha256()
    for source in sources:
        state.update(source.name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    state.update(repr(versions).encode())
    return state.digest()


def _root() -> Path:
    asked = environment.cache_directory()
    if asked is not None:
        return asked
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "fastxent"


def _private(directory: Path) -> bool:
    """Whether no other user can write into a directory, nor put another in its place."""
    if not hasattr(os, "geteuid"):
        return True
    own, above = directory.lstat(), directory.parent.stat()
    return (
        stat.S_ISDIR(own.st_mode)
        and own.st_uid == os.geteuid()
        and not own.st_mode & 0o022
        and above.st_uid in (os.geteuid(), 0)
        and (not above.st_mode & 0o022 or bool(above.st_mode & stat.S_ISVTX))
    )


def place(prefix: str, stamp: bytes) -> tuple[Path | None, str]:
    """Directory for compiled code, made if need be; or None and the reason.

    There is a warning where FASTXENT_CACHE_DIR asks for a directory that cannot be used.
    """
    if not environment.keep_kernels():
        return None, "off: FASTXENT_NUMBA_CACHE is 0"
    try:
        directory = _root() / f"{prefix}-{stamp.hex()[:16]}"
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        if _private(directory):
            tempfile.TemporaryFile(dir=directory).close()
            return directory, str(directory)
        reason = f"other users could write to {directory}"
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        reason = f"no directory to write: {error}"
    if environment.cache_directory() is not None:
        warnings.warn(f"kernels are compiled without a cache: {reason}", RuntimeWarning, 3)
    return None, reason


def read(path: Path, stamp: bytes) -> bytes | None:
    """What `write` put there; None for a file that is not just that, or was of another stamp."""
    data = path.read_bytes()
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return content if digest == _digest(stamp, content) else None


def write(path: Path, stamp: bytes, content: bytes) -> None:
    """Write in one step: another process finds the whole file or none."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(_digest(stamp, content) + content)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _digest(stamp: bytes, content: bytes) -> bytes:
    return hashlib.sha256(stamp + content).digest()
