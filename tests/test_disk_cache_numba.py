"""Kernels on the disk: loaded where they are what was compiled, else compiled; never stale."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from reliability import cache_children, cache_damage, cache_faults, records
from reliability.cache_children import COMPILED, LOADED, call

import fastxent as fx

REASON = fx.backends()["numba"]
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"numba: {REASON}"),
    pytest.mark.skipif(os.open not in os.supports_dir_fd, reason="nothing is kept on this system"),
]

PACKAGE = Path(fx.__file__).parent


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where a new cache will be."""
    monkeypatch.setenv("FASTXENT_CACHE_DIR", str(tmp_path / "not" / "there"))
    return tmp_path / "not" / "there"


def doubled(x):
    return 2 * x


def way(argument=21, function=doubled):
    """Whether a kernel that is compiled in milliseconds was loaded or compiled; it is right."""
    import numba

    from fastxent.backends.numba_cpu import cache

    kernel = numba.njit(function)
    cache.attach([kernel])
    assert kernel(argument) == function(argument)
    hits, misses = kernel.stats.cache_hits, kernel.stats.cache_misses
    return {(1, 0): LOADED, (0, 1): COMPILED, (0, 0): COMPILED}[len(hits), len(misses)]


def only_file(place):
    (file,) = place.glob("numba-*/*.nbc")
    return file


def test_what_was_compiled_is_loaded(place):
    assert [way() for _ in range(3)] == [COMPILED, LOADED, LOADED]
    assert only_file(place).parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(only_file(place).parent) == [only_file(place).name]


# --- damage

FILES = list(cache_damage.applicable(cache_damage.FILE))
DIRECTORIES = list(cache_damage.applicable(cache_damage.DIRECTORY))


@pytest.mark.parametrize("damage", FILES, ids=[damage.name for damage in FILES])
def test_file_that_is_not_what_was_written_is_compiled_again(place, damage):
    assert way() == COMPILED
    damage.inflict(only_file(place))
    assert way() == COMPILED
    assert way() == (LOADED if damage.recovers else COMPILED)


@pytest.mark.parametrize("damage", DIRECTORIES, ids=[damage.name for damage in DIRECTORIES])
def test_directory_that_is_not_the_users_alone_is_not_used(place, damage):
    assert way() == COMPILED
    damage.inflict(only_file(place).parent)
    with pytest.warns(RuntimeWarning, match="compiled without a cache"):
        assert way() == COMPILED
    assert way() == COMPILED  # and there is no second warning


# --- what a file is for


def test_each_signature_and_function_has_its_file(place):
    def doubled(x):  # the same name
        return x + x + 1

    wanted = [(21, globals()["doubled"]), (2.5, globals()["doubled"]), (21, doubled)]
    assert [way(*each) for each in wanted] == [COMPILED] * 3
    assert [way(*each) for each in wanted] == [LOADED] * 3
    assert len(list(place.glob("numba-*/*.nbc"))) == 3


@pytest.mark.parametrize(
    ("setting", "value"),
    [("CPU_NAME", "haswell"), ("OPT", 0), ("BOUNDSCHECK", 1), ("DEBUGINFO_DEFAULT", 1)],
)
def test_code_for_another_cpu_or_other_settings_is_not_used(place, monkeypatch, setting, value):
    import numba

    assert way() == COMPILED
    with monkeypatch.context() as patch:
        patch.setattr(numba.config, setting, value)
        assert way() == COMPILED
        assert way() == LOADED
    assert way() == LOADED


@pytest.mark.parametrize("kept", [0, 8])
def test_other_sources_or_versions_do_not_use_old_files(place, monkeypatch, kept):
    from fastxent.backends.numba_cpu import cache

    before = cache.stamp()
    assert way() == COMPILED
    # another directory; and, would two stamps begin alike, another checksum
    monkeypatch.setattr(cache, "stamp", lambda: before[:kept] + bytes(32 - kept))
    assert way() == COMPILED
    monkeypatch.undo()


def test_stamp_covers_sources_and_versions(tmp_path, monkeypatch):
    from fastxent.backends.numba_cpu import cache

    first = cache.stamp()
    assert first == cache.stamp()
    package = shutil.copytree(PACKAGE, tmp_path / "fastxent")
    monkeypatch.setattr(cache, "__file__", str(package / "backends/numba_cpu/cache.py"))
    assert cache.stamp() == first
    for name in ("backends/numba_cpu/row.py", "backends/contract.py", "version.py"):
        before = cache.stamp()
        with (package / name).open("a") as file:
            file.write("\n")
        assert cache.stamp() != before, name
    seen = {cache.stamp()}
    for module in (cache.np, cache.numba, cache.llvmlite):
        monkeypatch.setattr(module, "__version__", "9.9")
        seen.add(cache.stamp())
    monkeypatch.setattr(cache.sys, "version", "3.99")
    seen.add(cache.stamp())
    assert len(seen) == 5


def test_all_kernels_of_the_backend_are_attached():
    from fastxent.backends.numba_cpu import launch

    kernels = {*launch.CHUNKS, *launch.TURNS, launch.MEAN_LOSS}
    launch.CHECK_LABELS()  # compiled when it is asked for
    kernels |= set(launch.CHECK_LABELS.compiled.values())
    if not launch.info()["cache"].startswith("/"):
        pytest.skip(f"there is no cache here: {launch.info()['cache']}")
    assert {type(kernel._cache).__name__ for kernel in kernels} == {"_KernelCache"}


# --- whole processes


def test_second_process_loads_what_the_first_compiled_on_any_threading_layer(tmp_path):
    place = tmp_path / "cache"
    outcomes = [
        call({"FASTXENT_CACHE_DIR": place, "NUMBA_THREADING_LAYER": layer}, "threads")
        for layer in ("omp", "workqueue")
    ]
    assert outcomes == [(COMPILED, 0, ""), (LOADED, 0, "")]
    (directory,) = place.glob("numba-*")
    assert {path.suffix for path in directory.iterdir()} == {".nbc"}


def test_two_versions_of_the_sources_share_a_cache_and_no_kernel(tmp_path):
    """What differs is a file that the kernel calls: Numba's own cache looks at its own alone."""
    counts = {"as_it_is": "= live", "altered": "= 2 * live"}
    for version, count in counts.items():
        package = tmp_path / version / "fastxent"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        labels = package / "backends" / "numba_cpu" / "labels.py"
        before, line, after = labels.read_text().partition("np.int64(0))[1] = live\n")
        assert line
        labels.write_text(before + line.replace("= live", count) + after)
    place = {"FASTXENT_CACHE_DIR": tmp_path / "cache"}
    for way in (COMPILED, LOADED):
        assert call(place, "count", package=tmp_path / "as_it_is") == (way, 0, "3\n")
        assert call(place, "count", package=tmp_path / "altered") == (way, 0, "6\n")
    assert len(list((tmp_path / "cache").glob("numba-*"))) == 2


def test_program_that_harms_the_cache(tmp_path, capsys):
    options = ["--rounds", "0", "--only", "1", "--step", "5000", "--out", str(tmp_path)]
    assert cache_faults.main(options) == 0
    assert "all survived" in capsys.readouterr().out
    kept = records.load("cache_faults", tmp_path)
    assert kept["passed"]
    figures = kept["figures"]
    assert (figures["faults"], figures["survived"], figures["processes"]) == (1, 1, 3)
    assert figures["altered_files"] > 100


def test_cache_can_be_turned_off(place, monkeypatch):
    monkeypatch.setenv("FASTXENT_NUMBA_CACHE", "0")
    assert [way(), way()] == [COMPILED, COMPILED]
    assert not place.exists()


def test_installed_read_only_and_run_by_a_user_without_a_home(tmp_path):
    stranger = cache_children.stranger()
    if stranger is None:
        pytest.skip("root ignores modes, and setpriv, which makes another user of it, is missing")
    site = tmp_path / "site-packages"
    shutil.copytree(PACKAGE, site / "fastxent", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [site, *site.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        outcome = call(
            {"HOME": None if stranger else tmp_path / "nowhere"}, before=stranger, package=site
        )
        # nothing was asked for: there is no warning
        assert outcome == (COMPILED, 0, "")
        assert not list(site.rglob("__pycache__"))
    finally:
        for path in [site, *site.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


def test_library_packed_without_its_sources(tmp_path):
    """Only byte code, as programs are packed: there is nothing to tell versions by."""
    package = shutil.copytree(
        PACKAGE, tmp_path / "fastxent", ignore=shutil.ignore_patterns("__pycache__")
    )
    sources = package / "backends"
    compiled = [sys.executable, "-m", "compileall", "-q", "-b", sources]
    subprocess.run(compiled, check=True, timeout=120)
    for path in sources.rglob("*.py"):
        path.unlink()
    place = tmp_path / "cache"
    assert call({"FASTXENT_CACHE_DIR": place}, package=tmp_path) == (COMPILED, 0, "")
    assert not place.exists()


def run(code, **environment):
    """Run code in a process of its own, in which warnings are errors."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=cache_children.INHERITED | {"PYTHONPATH": str(PACKAGE.parent)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_one_warning_from_all_that_keep_kernels(tmp_path):
    (tmp_path / "file").touch()
    run(
        """
        import warnings
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            import fastxent.numba
            from fastxent.backends import load
            from fastxent.backends.cuda import cubins
            assert load("numba").info()["cache"].startswith("no directory to write")
            assert cubins.directory()[1].startswith("no directory to write")
        told = [str(warning.message)[:36] for warning in seen]
        assert told == ["kernels are compiled without a cache"], told
        """,
        FASTXENT_CACHE_DIR=str(tmp_path / "file"),
    )


# A process that has Numba, and forks into those that compile: each is a process of its own.
FORKED = """
    import os, resource, signal, sys
    import numba
    from fastxent.backends.numba_cpu import cache

    def doubled(x):
        return 2 * x

    def way():
        kernel = numba.njit(doubled)
        cache.attach([kernel])
        assert kernel(21) == 42
        return len(kernel.stats.cache_hits)

    assert numba.njit(doubled)(21) == 42  # what Numba looks up once takes longer than this kernel

    def forked(prepare):
        pid = os.fork()
        if pid == 0:
            signal.alarm(200)
            prepare()
            os._exit(10 + way())
        return pid

    def exit_code(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_many_processes_compile_at_once(tmp_path):
    code = """
    for round in range(5):
        os.environ["FASTXENT_CACHE_DIR"] = os.path.join({place!r}, str(round))
        ready, go = os.pipe()
        def wait():
            os.close(go)
            os.read(ready, 1)  # until the parent closes its end: all begin together
        processes = [forked(wait) for _ in range(8)]
        os.close(ready), os.close(go)
        codes = [exit_code(pid) for pid in processes]
        assert set(codes) <= {{10, 11}}, codes
        assert exit_code(forked(lambda: None)) == 11  # the next one loads
    """
    run(textwrap.dedent(FORKED) + textwrap.dedent(code).format(place=str(tmp_path)))
    left = {path.suffix for path in tmp_path.rglob("numba-*/*")}
    assert left == {".nbc"}


def test_full_disk_takes_nothing_from_the_call(tmp_path):
    code = """
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    assert [exit_code(forked(full)) for _ in range(2)] == [10, 10]
    assert exit_code(forked(lambda: None)) == 10
    assert exit_code(forked(full)) == 11
    """
    place = tmp_path / "cache"
    run(textwrap.dedent(FORKED) + textwrap.dedent(code), FASTXENT_CACHE_DIR=str(place))
    assert len(list(place.glob("numba-*/*"))) == 1
