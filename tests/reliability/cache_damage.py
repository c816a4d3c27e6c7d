"""Everything that can be wrong with a file of compiled code, or with the directory it lies in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fastxent.backends import disk_cache

__all__ = ["DIRECTORY", "FILE", "NOBODY", "Damage", "applicable", "bytes_of_regions"]

# The user that Linux has for what belongs to no one.
NOBODY = 65534
DIGEST = 32


class Damage(NamedTuple):
    """One way to harm a cache.

    Attributes
    ----------
    name : str
        What is wrong afterwards.
    inflict : callable
        Does it, to a file or to a directory.
    recovers : bool
        Whether the next call to write puts it right again.
    as_root : bool
        Whether only root can do it.
    """

    name: str
    inflict: Callable[[Path], None]
    recovers: bool = True
    as_root: bool = False


def applicable(damages: tuple[Damage, ...]) -> Iterator[Damage]:
    """Those that this user can inflict."""
    root = os.geteuid() == 0
    return (damage for damage in damages if root or not damage.as_root)


def bytes_of_regions(size: int, step: int = 1) -> Iterator[int]:
    """Places in a file of this size: all in the checksum and behind it, then every step."""
    yield from range(min(size, 2 * DIGEST))
    yield from range(2 * DIGEST, size, step)
    yield size - 1


def _cut(length: int) -> Callable[[Path], None]:
    def inflict(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:length])

    return inflict


def _flipped(place: float) -> Callable[[Path], None]:
    """A bit of the byte at a place: a share of the file, or a number of bytes."""

    def inflict(file: Path) -> None:
        data = bytearray(file.read_bytes())
        at = int(place * len(data)) if isinstance(place, float) else place
        data[at] ^= 0x10
        file.write_bytes(data)

    return inflict


def _with_content(make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def inflict(file: Path) -> None:
        file.write_bytes(make(file.read_bytes()))

    return inflict


def _of_another_name(file: Path) -> None:
    """The file of another kernel, whole in itself: its code would run in this one's place."""
    stamp = _stamp()
    content = disk_cache.read(file, stamp)
    other = file.with_name(f"other-{file.name}")
    disk_cache.write(other, stamp, content)
    other.replace(file)


def _of_another_stamp(file: Path) -> None:
    content = disk_cache.read(file, _stamp())
    disk_cache.write(file, bytes(32), content)


def _stamp() -> bytes:
    from fastxent.backends.numba_cpu import cache

    return cache.stamp()


def _linked(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


def _dangling(path: Path) -> None:
    _remove(path)
    path.symlink_to(path.with_name("nowhere"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _in_its_place(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def inflict(path: Path) -> None:
        _remove(path)
        make(path)

    return inflict


def _of_mode(mode: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(mode)


def _of_nobody(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


FILE = (
    Damage("empty", _cut(0)),
    Damage("one byte long", _cut(1)),
    Damage("half a checksum", _cut(DIGEST // 2)),
    Damage("a checksum and nothing else", _cut(DIGEST)),
    Damage("cut in its code", _with_content(lambda data: data[: len(data) // 2])),
    Damage("short of its last byte", _cut(-1)),
    Damage("a byte too long", _with_content(lambda data: data + b"\0")),
    Damage("zeros, as after a power cut", _with_content(lambda data: bytes(len(data)))),
    Damage("text", _with_content(lambda data: b"x" * len(data))),
    Damage("a bit flipped in its checksum", _flipped(7)),
    Damage("a bit flipped at the head of its pickle", _flipped(DIGEST)),
    Damage("a bit flipped in its code", _flipped(0.5)),
    Damage("a bit flipped in its last byte", _flipped(-1)),
    Damage("that of another kernel", _of_another_name),
    Damage("of other sources", _of_another_stamp),
    Damage("a link", _linked),
    Damage("a link to nothing", _dangling),
    Damage("a pipe", _in_its_place(os.mkfifo)),
    Damage("a directory", _in_its_place(Path.mkdir), recovers=False),
    Damage("writable by others", _of_mode(0o666)),
    Damage("of another user", _of_nobody, as_root=True),
)

DIRECTORY = (
    Damage("writable by all", _of_mode(0o777), recovers=False),
    Damage("writable by all, as /tmp is", _of_mode(0o1777), recovers=False),
    Damage("writable by its group", _of_mode(0o770), recovers=False),
    Damage("of another user", _of_nobody, recovers=False, as_root=True),
    Damage("a link", _linked, recovers=False),
    Damage("a link to nothing", _dangling, recovers=False),
    Damage("a file", _in_its_place(Path.touch), recovers=False),
    Damage("below one writable by all", lambda path: path.parent.chmod(0o777), recovers=False),
    Damage(
        "below one of another user",
        lambda path: _of_nobody(path.parent),
        recovers=False,
        as_root=True,
    ),
)
