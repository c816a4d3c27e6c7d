"""Files of compiled code: whole or not used, whoever is killed while writing them, or meddles."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from reliability import cache_damage

import fastxent
from fastxent.backends import disk_cache

pytestmark = pytest.mark.skipif(
    os.open not in os.supports_dir_fd, reason="nothing is kept on this system"
)

ROOT = Path(fastxent.__file__).parent.parent
STAMP = bytes(range(32))
CONTENT = b"machine code " * 10


@pytest.fixture
def file(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path / "kernel.nbc"


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """What `place` gives, a new one in each test."""
    monkeypatch.setenv("FASTXENT_CACHE_DIR", str(tmp_path / "cache"))
    found, _ = disk_cache.place("numba", STAMP)
    return found


def run(code):
    """Run code in a process that is forked from often: no thread runs there."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


# --- one file


def test_what_was_written_is_read(file):
    for content in (b"", b"x", CONTENT, os.urandom(1 << 20)):
        disk_cache.write(file, STAMP, content)
        assert disk_cache.read(file, STAMP) == content
        assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == [file.name]


def test_no_byte_can_change(file):
    disk_cache.write(file, STAMP, CONTENT)
    good = file.read_bytes()
    for place in range(len(good)):
        for mask in (1, 0x80, 0xFF):
            file.write_bytes(good[:place] + bytes([good[place] ^ mask]) + good[place + 1 :])
            assert disk_cache.read(file, STAMP) is None, (place, mask)


def test_no_byte_can_be_missing_or_too_many(file):
    disk_cache.write(file, STAMP, CONTENT)
    good = file.read_bytes()
    for length in range(len(good)):
        file.write_bytes(good[:length])
        assert disk_cache.read(file, STAMP) is None, length
    file.write_bytes(good + b"\0")
    assert disk_cache.read(file, STAMP) is None


def test_file_counts_under_its_name_and_stamp_only(file):
    disk_cache.write(file, STAMP, CONTENT)
    assert disk_cache.read(file, STAMP[::-1]) is None
    other = file.with_name("other.nbc")
    file.rename(other)
    assert disk_cache.read(other, STAMP) is None
    other.rename(file)
    assert disk_cache.read(file, STAMP) == CONTENT


def test_a_pipe_is_not_waited_for(file):
    os.mkfifo(file, 0o600)
    began = time.monotonic()
    assert disk_cache.read(file, STAMP) is None
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["link", "directory", "absent"])
def test_what_is_no_file_is_an_error_that_callers_expect(file, kind):
    if kind == "link":
        disk_cache.write(file.with_name("target"), STAMP, CONTENT)
        file.symlink_to("target")
    elif kind == "directory":
        file.mkdir()
    with pytest.raises(OSError, match=str(file.name)):
        disk_cache.read(file, STAMP)


# --- who may write where files lie


def test_directory_is_looked_at_each_time(file):
    disk_cache.write(file, STAMP, CONTENT)
    for mode in (0o777, 0o770, 0o702, 0o1777):
        file.parent.chmod(mode)
        with pytest.raises(PermissionError, match="other users could write"):
            disk_cache.read(file, STAMP)
        with pytest.raises(PermissionError, match="other users could write"):
            disk_cache.write(file, STAMP, CONTENT)
    file.parent.chmod(0o755)
    assert disk_cache.read(file, STAMP) == CONTENT


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
def test_file_that_others_can_write_is_not_used(file, mode):
    disk_cache.write(file, STAMP, CONTENT)
    file.chmod(mode)
    assert disk_cache.read(file, STAMP) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_of_another_user_is_not_used(file):
    disk_cache.write(file, STAMP, CONTENT)
    os.chown(file, cache_damage.NOBODY, cache_damage.NOBODY)
    assert disk_cache.read(file, STAMP) is None
    os.chown(file, 0, 0)
    os.chown(file.parent, cache_damage.NOBODY, 0)
    with pytest.raises(PermissionError, match="other users"):
        disk_cache.read(file, STAMP)


DIRECTORIES = list(cache_damage.applicable(cache_damage.DIRECTORY))


@pytest.mark.parametrize("damage", DIRECTORIES, ids=[damage.name for damage in DIRECTORIES])
def test_directory_that_is_not_the_users_alone_is_refused(directory, damage):
    assert directory is not None
    damage.inflict(directory)
    with pytest.warns(RuntimeWarning, match="compiled without a cache") as told:
        place, reason = disk_cache.place("numba", STAMP)
    assert place is None
    assert reason in str(told[0].message)
    assert reason.startswith(("other users could write to", "no directory to write"))


def test_place_does_not_move_with_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTXENT_CACHE_DIR", "here")
    place, _ = disk_cache.place("numba", STAMP)
    assert place == tmp_path / "here" / f"numba-{STAMP.hex()[:16]}"
    assert place.stat().st_mode & 0o777 == place.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("asked", ["file", "file/below", "loop", "x" * 300, "/proc/nowhere/x"])
def test_one_warning_where_the_directory_asked_for_cannot_be(tmp_path, monkeypatch, asked):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("FASTXENT_CACHE_DIR", str(tmp_path / asked))
    with pytest.warns(RuntimeWarning, match="no directory to write"):
        assert disk_cache.place("numba", STAMP)[0] is None
    for prefix in ("cuda", "numba"):  # where a second warning would be an error
        assert disk_cache.place(prefix, STAMP)[0] is None


def test_no_warning_where_nothing_was_asked_for(monkeypatch):
    monkeypatch.delenv("FASTXENT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    place, reason = disk_cache.place("numba", STAMP)
    assert place is None
    assert reason.startswith("no directory to write")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert disk_cache.place("numba", STAMP) == (None, reason.replace("/.cache", ""))


def test_directory_of_the_user_is_where_xdg_says(tmp_path, monkeypatch):
    monkeypatch.delenv("FASTXENT_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # the standard says: ignore it
    name = f"numba-{STAMP.hex()[:16]}"
    assert disk_cache.place("numba", STAMP)[0] == tmp_path / ".cache" / "fastxent" / name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert disk_cache.place("numba", STAMP)[0] == tmp_path / "xdg" / "fastxent" / name


# --- killed while writing

# A process for each stage: it is killed before some line of disk_cache, or at some byte of a file.
KILLED = """
    import os, resource, signal, sys
    from pathlib import Path
    from fastxent.backends import disk_cache

    stamp, old, new = bytes(32), b"old" * 10_000, b"new" * 20_000
    directory = Path({directory!r})
    directory.mkdir(mode=0o700)
    file = directory / "kernel.nbc"

    def killed_in(prepare):
        pid = os.fork()
        if pid == 0:
            prepare()
            disk_cache.write(file, stamp, new)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL, -signal.SIGXFSZ), code
        return code != 0

    def survives(prepare, before):
        file.unlink(missing_ok=True)
        if before is not None:
            disk_cache.write(file, stamp, before)
        killed = killed_in(prepare)
        found = disk_cache.read(file, stamp) if file.exists() else None
        assert found in (before, new), found[:9]
        left = [part for part in directory.iterdir() if part != file]
        assert killed or not left
        disk_cache.write(file, stamp, new)
        assert disk_cache.read(file, stamp) == new
        for part in left:
            part.unlink()
        return killed, bool(left), found == new

    def before_line(number):
        def trace(frame, event, argument):
            nonlocal number
            if frame.f_code.co_filename != disk_cache.__file__:
                return None
            if event == "line":
                number -= 1
                if number < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace
        return lambda: sys.settrace(trace)

    def at_byte(number):
        def prepare():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        return prepare

    outcomes = []
    for before in (None, old):
        stage = 0
        while (outcome := survives(before_line(stage), before))[0]:
            outcomes.append(outcome)
            stage += 1
        outcomes += [survives(at_byte(number), before) for number in {bytes}]
    assert all(killed for killed, _, _ in outcomes)
    print(len(outcomes), sum(left for _, left, _ in outcomes), sum(new for _, _, new in outcomes))
"""


def test_writer_killed_at_any_stage_leaves_the_whole_file_or_none(tmp_path):
    stages = [0, 1, 31, 32, 33, 8191, 8192, 8193, 30_000, 60_000]
    code = KILLED.format(directory=str(tmp_path / "cache"), bytes=stages)
    killed, left, done = map(int, run(code))
    assert killed > 2 * (20 + len(stages))
    assert left >= 2 * len(stages)  # half-written ones, which no reader ever names
    assert done >= 2  # killed after the file was in place


def test_what_killed_writers_left_is_removed_in_time(file):
    old, young, other = (file.with_name(name) for name in ("a.part", "b.part", "c.nbc"))
    for path in (old, young, other):
        path.touch(mode=0o600)
    for path in (old, other):
        os.utime(path, (time.time() - 3700,) * 2)
    disk_cache.write(file, STAMP, CONTENT)
    assert {path.name for path in file.parent.iterdir()} == {"b.part", "c.nbc", file.name}


def test_failed_write_leaves_nothing(file, monkeypatch):
    def fails(*_arguments, **_names):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        disk_cache.write(file, STAMP, CONTENT)
    assert not os.listdir(file.parent)
