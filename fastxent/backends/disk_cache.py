"""Compiled code on disk: a directory of the user's own, and files that are whole or not used.

Each state of sources and versions (a stamp) has a directory of its own, so nothing old is ever
found. What lies there gets executed: the directory must belong to the user alone, and so must each
file. A file carries a checksum over stamp, name and content; one that is cut short, altered or in
another's place is as good as absent.

FASTXENT_CACHE_DIR chooses the place, FASTXENT_NUMBA_CACHE=0 turns the cache off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastxent import environment

__all__ = ["place", "read", "stamp_of", "write"]

_DIGEST_BYTES = 32
_PART = ".part"
# Files are written in milliseconds: after an hour whoever wrote a part was killed.
_ABANDONED_AFTER = 3600.0

# Directories that were asked for and cannot be used, of which there was a warning.
_warned: set[Path] = set()


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
        return asked.absolute()  # the working directory may change
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "fastxent"


def _is_ours(found: os.stat_result) -> bool:
    """Whether something belongs to this user, and no other can write to it."""
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _may_hold(above: os.stat_result) -> bool:
    """Whether nobody but this user and root can put something in another's place here."""
    return above.st_uid in (os.geteuid(), 0) and (
        not above.st_mode & 0o022 or bool(above.st_mode & stat.S_ISVTX)
    )


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Descriptor of a directory that is the user's alone, whatever its path is made to lead to."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not _is_ours(os.fstat(descriptor)):
            raise PermissionError(f"other users could write to {directory}")
        yield descriptor
    finally:
        os.close(descriptor)


def place(prefix: str, stamp: bytes) -> tuple[Path | None, str]:
    """Directory for compiled code, made if need be; or None and the reason.

    There is a warning, one for a process, where FASTXENT_CACHE_DIR asks for a directory that
    cannot be used. One that can only be read is used: what it lacks is compiled each time.
    """
    if not environment.keep_kernels():
        return None, "off: FASTXENT_NUMBA_CACHE is 0"
    if os.open not in os.supports_dir_fd:
        return None, "off: this system does not tell whom a directory belongs to"
    try:
        directory = _root() / f"{prefix}-{stamp.hex()[:16]}"
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        with _opened(directory):
            if _may_hold(directory.parent.stat()):
                return directory, str(directory)
        reason = f"other users could write to {directory.parent}"
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        reason = f"no directory to write: {error}"
    asked = environment.cache_directory()
    if asked is not None and asked not in _warned:
        _warned.add(asked)
        warnings.warn(f"kernels are compiled without a cache: {reason}", RuntimeWarning, 3)
    return None, reason


def read(path: Path, stamp: bytes) -> bytes | None:
    """What `write` put there; None for a file that is not just that, or was of another stamp."""
    with _opened(path.parent) as directory:

        def opener(name: str, flags: int) -> int:
            # no link is followed, and no pipe waited for
            return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)

        with open(path.name, "rb", opener=opener) as file:
            found = os.fstat(file.fileno())
            if not (stat.S_ISREG(found.st_mode) and _is_ours(found)):
                return None
            data = file.read()
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return content if digest == _digest(path, stamp, content) else None


def write(path: Path, stamp: bytes, content: bytes) -> None:
    """Write in one step: another process finds the whole file or none."""
    part = f"{path.name}-{os.urandom(8).hex()}{_PART}"
    with _opened(path.parent) as directory:
        _remove_abandoned(directory)

        def opener(name: str, flags: int) -> int:
            return os.open(name, flags, 0o600, dir_fd=directory)

        try:
            with open(part, "xb", opener=opener) as file:
                file.write(_digest(path, stamp, content))
                file.write(content)
            os.replace(part, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=directory)
            raise


def _remove_abandoned(directory: int) -> None:
    """Remove what processes that were killed had begun to write."""
    limit = time.time() - _ABANDONED_AFTER
    with contextlib.suppress(OSError):  # another process may be as quick
        for name in filter(lambda name: name.endswith(_PART), os.listdir(directory)):
            if os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime < limit:
                os.unlink(name, dir_fd=directory)


def _digest(path: Path, stamp: bytes, content: bytes) -> bytes:
    return hashlib.sha256(stamp + path.name.encode() + b"\0" + content).digest()
