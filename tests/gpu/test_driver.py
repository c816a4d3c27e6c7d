"""NVIDIA's driver as the backend calls it, with stand-ins for what is not there."""

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path

import pytest

import fastxent
from fastxent.backends.cuda import driver
from fastxent.backends.cuda.driver import Driver
from fastxent.backends.cuda.launch import Library

POINTER, COUNT = ctypes.c_void_p, ctypes.c_uint
OWN, OTHER = 0x1000, 0x2000
HERE = Path(__file__).parent


# --- A launch


class StandIn:
    """The four functions of the driver's library; what they are told is kept."""

    def __init__(self, code=0):
        self.current, self.launches, self.code = {}, [], code
        context = ctypes.CFUNCTYPE(ctypes.c_int, POINTER)
        launch = ctypes.CFUNCTYPE(
            ctypes.c_int, POINTER, *[COUNT] * 7, POINTER, POINTER, ctypes.POINTER(POINTER)
        )
        self.cuCtxGetCurrent = context(self._get)
        self.cuCtxPushCurrent_v2 = context(self._push)
        self.cuCtxPopCurrent_v2 = context(self._pop)
        self.cuLaunchKernel = launch(self._launch)

    def stack(self):
        return self.current.setdefault(threading.get_ident(), [OTHER])

    def _get(self, where):
        POINTER.from_address(where).value = self.stack()[-1]
        return 0

    def _push(self, context):
        self.stack().append(context)
        return 0

    def _pop(self, where):
        self.stack().pop()
        return 0

    def _launch(self, function, *rest):
        *numbers, stream, parameters, extra = rest
        assert (extra[0], extra[2], extra[4], parameters) == (1, 2, None, None)
        size = ctypes.c_size_t.from_address(extra[3]).value
        arguments = ctypes.string_at(extra[1], size)
        self.launches.append((function, self.stack()[-1], numbers, stream, arguments))
        return self.code


def test_launch_hands_over_packed_arguments_in_the_right_context():
    there = StandIn()
    arguments = struct.pack("=2qd", 1 << 40, -1, 0.5)
    assert Library(there).launch(77, OWN, 5, 128, arguments, 9) == 0
    assert there.launches == [(77, OWN, [5, 1, 1, 128, 1, 1, 0], 9, arguments)]
    assert there.stack() == [OTHER]  # the caller's is current again


def test_context_that_is_current_stays():
    there = StandIn()
    there.stack()[:] = [OWN]
    library = Library(there)
    library.launch(77, OWN, 1, 32, b"", 0)
    with library.within(OWN):
        assert there.stack() == [OWN]
    assert there.stack() == [OWN]
    (launched,) = there.launches
    assert launched[1] == OWN
    assert launched[3] is None  # what ctypes makes of 0, the legacy default stream


def test_context_is_left_after_an_error():
    there = StandIn(code=719)
    library = Library(there)
    assert library.launch(77, OWN, 1, 32, b"", 0) == 719
    assert there.stack() == [OTHER]

    def fail():
        with library.within(OWN):
            assert there.stack() == [OTHER, OWN]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert there.stack() == [OTHER]


def test_threads_do_not_share_the_memory_of_arguments():
    there = StandIn()
    library = Library(there)

    def launch(number):
        for _ in range(200):
            library.launch(number, OWN, 1, 32, number.to_bytes(8, "little") * number, 0)

    threads = [threading.Thread(target=launch, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(there.launches) == 800
    for number, _, _, _, arguments in there.launches:
        assert arguments == number.to_bytes(8, "little") * number


def test_arguments_that_no_kernel_can_have():
    with pytest.raises(ValueError, match="4104 bytes"):
        Library(StandIn()).launch(77, OWN, 1, 32, bytes(4104), 0)


# --- Why it cannot be used


class Missing(Exception):
    pass


def bindings(init=0, version=13000, capabilities=((9, 0),)):
    """What why_not asks of cuda.bindings.driver."""

    def initialise(flags):
        if init is Missing:
            raise Missing("libcuda.so.1 was not found")
        return (init,)

    def attribute(name, device):
        return 0, capabilities[device][name == "MINOR"]

    names = types.SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="MAJOR",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="MINOR",
    )
    return types.SimpleNamespace(
        CUDA_VERSION=13050,
        CUdevice_attribute=names,
        cuInit=initialise,
        cuDriverGetVersion=lambda: (0, version),
        cuDeviceGetCount=lambda: (0, len(capabilities)),
        cuDeviceGet=lambda ordinal: (0, ordinal),
        cuDeviceGetName=lambda size, device: (0, b"Card\0 rubbish"),
        cuDeviceGetAttribute=attribute,
        cuGetErrorString=lambda code: (0, b"no CUDA-capable device is detected"),
    )


@pytest.fixture
def all_installed(monkeypatch):
    monkeypatch.setattr(driver, "_is_installed", lambda module: True)
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({}, None),
        ({"capabilities": ((6, 1), (7, 5))}, None),
        ({"init": Missing}, "NVIDIA's driver cannot be loaded: libcuda.so.1 was not found"),
        (
            {"init": 100},
            "no GPU of NVIDIA can be used: no CUDA-capable device is detected (CUDA error 100)",
        ),
        (
            {"version": 12080},
            "NVIDIA's driver is for CUDA 12, the installed packages for CUDA 13: "
            "update the driver, or install numba-cuda[cu12]",
        ),
        ({"capabilities": ()}, "no GPU of NVIDIA is visible"),
        ({"capabilities": ((7, 0),)}, "Card has compute capability 7.0, and 7.5 is needed"),
    ],
)
def test_reason(there, words):
    assert Driver(bindings(**there)).why_not() == words


@pytest.mark.usefixtures("all_installed")
def test_first_device_that_can_do_it():
    assert Driver(bindings(capabilities=((6, 1), (7, 0), (8, 0), (9, 0)))).first_device() == 2


def test_kernels_are_not_loaded_on_an_older_card(monkeypatch):
    there = Driver(bindings(capabilities=((9, 0), (6, 1))))
    monkeypatch.setattr(there, "is_capturing", lambda stream, device: False)
    with pytest.raises(fastxent.BackendError, match=r"Card has compute capability 6\.1, and 7\.5"):
        there.launch(None, 1, b"", 1, 0)


def test_packages_that_are_missing(monkeypatch):
    for package, module in (("numba-cuda", "numba_cuda"), ("cuda-bindings", "cuda.bindings")):
        monkeypatch.setattr(driver, "_is_installed", lambda name, missing=module: name != missing)
        expected = f"{package} is not installed: pip install 'fastxent[cuda]'"
        assert Driver().why_not() == expected


def test_module_of_a_package_that_is_missing():
    assert driver._is_installed("fastxent.errors")
    assert not driver._is_installed("fastxent.nothing")
    assert not driver._is_installed("no_such_package.module")


@pytest.mark.usefixtures("all_installed")
def test_simulator_of_numba(monkeypatch):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert Driver(bindings()).why_not() == "NUMBA_ENABLE_CUDASIM is set"


@pytest.mark.usefixtures("all_installed")
def test_child_of_a_process_that_asked(monkeypatch):
    asked = Driver(bindings())
    assert asked.why_not() is None
    monkeypatch.setattr(driver.os, "getpid", lambda: -1)
    assert "forked" in asked.why_not()
    assert Driver(bindings()).why_not() is None


# --- All calls, through NVIDIA's bindings, to a library in C


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Directory with a libcuda.so.1."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for Linux")
    place = tmp_path_factory.mktemp("library")
    options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", place / "libcuda.so.1"]
    subprocess.run([compiler, *options, HERE / "driver_stand_in.c", "-ldl"], check=True)
    return place


def told(library, code):
    """What the library and the code print in a process of their own."""
    start = """
        import numpy as np
        import fastxent
        from fastxent.backends.cuda import cubins
        from fastxent.backends.cuda.driver import Driver
        from fastxent.backends.cuda.specs import KernelSpec, LoopGeometry, RowGeometry
        driver = Driver()
        assert driver.why_not() is None, driver.why_not()
    """
    path = os.pathsep.join([str(Path(fastxent.__file__).parents[1]), *sys.path])
    # -u: the library writes beside Python's buffer, and the order of lines is what is tested
    done = subprocess.run(
        [sys.executable, "-u", "-W", "error", "-c", textwrap.dedent(start) + textwrap.dedent(code)],
        env={**os.environ, "LD_LIBRARY_PATH": str(library), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_devices(library):
    code = """
        print(driver.device_count(), driver.capability(1), driver.name(1))
        print(driver.multiprocessors(1), driver.version(), driver.device_of(0x5000))
        try:
            driver.device_of(0x10)
        except fastxent.BackendError as error:
            print(error)
    """
    assert told(library, code) == [
        "2 (9, 0) Card 41",
        "132 99.0 1",
        "cuPointerGetAttribute: another error (CUDA error 1)",
    ]


def test_memory(library):
    code = """
        source, back = np.arange(100.0), np.empty(100)
        address = driver.allocate(800, 1)
        driver.upload(address, source, 0x5, 1)
        driver.download(back, address, 0x6, 1)
        assert (back == source).all()
        driver.free(address, 1)
        large = driver.allocate(80_000, 0)
        driver.upload(large, np.zeros(0), 0x5, 0)
        driver.download(np.zeros(0), large, 0x5, 0)
        driver.allocate(0, 0)
        try:
            driver.allocate(10_000_000, 0)
        except MemoryError as error:
            print(error)
    """
    here = "within 0x2800"
    assert told(library, code) == [
        *("within 0x2900", "allocate 800 in mode 2"),
        "within 0x2900",  # is it captured?
        *("within 0x2900", "upload 800 on 0x5"),
        *("within 0x2900", "record on 0x5"),
        *("within 0x2900", "query in mode 2"),
        *("within 0x2900", "destroy 0x55"),
        *("within 0x2900", "download 800 on 0x6", "synchronize 0x6"),
        *("within 0x2900", "free in mode 2"),
        *(here, "allocate 80000 in mode 2"),
        *(here, "allocate 1 in mode 2"),
        *(here, "allocate 10000000 in mode 2"),
        "Card 40 has no 10000000 bytes of memory left",
    ]


def test_memory_of_a_stream_comes_and_goes_in_its_order(library):
    code = """
        for device in (0, 1):
            driver.free(driver.allocate(80, device, 0x5), device, 0x5)
        driver.free(driver.allocate(80, 0), 0)
    """
    here, plain = "within 0x2800", ("allocate 80 in mode 2", "free in mode 2")
    in_order = "allocate 80 on 0x5 in mode 2", "free on 0x5 in mode 2"
    assert told(library, code) == [
        *(here, in_order[0], here, in_order[1]),
        *("within 0x2900", plain[0], "within 0x2900", plain[1]),  # no pools there
        *(here, plain[0], here, plain[1]),
    ]


def test_what_is_uploaded_is_kept_until_it_is_there(library):
    """Pieces that the driver takes over without a wait; only a very large array waits."""
    code = """
        import ctypes, weakref
        set_past = ctypes.CDLL("libcuda.so.1").stand_in_is_past
        there = driver.allocate(800_000, 0)
        for is_past in (0, 1):
            set_past(is_past)
            driver.upload(there, np.arange(20_000.0), 0x5, 0)
            print(len(driver._sources), "kept")
        back = np.empty(20_000)
        driver.download(back, there, 0x5, 0)
        assert (back == np.arange(20_000.0)).all()
    """
    lines = [line for line in told(library, code) if not line.startswith("within")]
    uploads = ["upload 65536 on 0x5", "upload 65536 on 0x5", "upload 28928 on 0x5"]
    assert lines == [
        "allocate 800000 in mode 2",
        *(*uploads, "record on 0x5", "query in mode 2", "1 kept"),
        *(*uploads, "record on 0x5", *["query in mode 2", "destroy 0x55"] * 2, "0 kept"),
        *("download 160000 on 0x5", "synchronize 0x5"),
    ]
    code = """
        from fastxent.backends.cuda import memory
        memory._MOST_IN_PIECES = 799
        driver.upload(driver.allocate(800, 0), np.zeros(100), 0x5, 0)
    """
    assert told(library, code)[-2:] == ["upload 800 on 0x5", "synchronize 0x5"]


def test_events(library):
    code = """
        import ctypes
        set_past = ctypes.CDLL("libcuda.so.1").stand_in_is_past
        set_past(0)
        event = driver.record(0x5, 0)
        print(driver.is_past(event))
        driver.wait_for(0x6, event)
        driver.wait_on_host(event)
        print(driver.is_past(event))
        driver.wait_for(0x6, event)
        driver.wait_on_host(event)
    """
    lines = [line for line in told(library, code) if not line.startswith("within")]
    assert lines == [
        *("record on 0x5", "query in mode 2", "False", "wait on 0x6 for 0x55"),
        *("wait on the host in mode 2", "destroy 0x55", "True"),
    ]


def test_streams(library):
    code = """
        driver.synchronize(0x6, 0)
        driver.wait(0x6, 0x5, 0)
        driver.wait(0x6, 0x6, 0)
        print(*(driver.is_capturing(stream, 0) for stream in (0, 0x6, 0x77)))
        try:
            driver.upload(0, np.zeros(1), 0x77, 0)
        except fastxent.BackendError as error:
            print(error)
    """
    *lines, refusal = told(library, code)
    assert lines == [
        *("within 0x2800", "synchronize 0x6"),
        *("within 0x2800", "record on 0x5"),
        *("within 0x2800", "wait on 0x6 for 0x55"),
        *("within 0x2800", "destroy 0x55"),
        *["within 0x2800"] * 3,
        "False False True",
        "within 0x2800",
    ]
    assert "cannot be copied to the GPU while the stream is captured" in refusal


def test_kernels(library):
    code = """
        def cubin(spec, capability):
            print("compile", spec.module, capability)
            return cubins.Cubin(b"some code", f"fastxent_{spec.module}")
        cubins.cubin = cubin
        words = (5).to_bytes(8, "little") + (6).to_bytes(8, "little")
        loop = KernelSpec("loop", None, LoopGeometry(96))
        def attempt(spec, stream):
            try:
                driver.launch(spec, 3, words, 1, stream)
            except fastxent.BackendError as error:
                print(error)
        attempt(loop, 0x77)
        attempt(loop, 0x6)
        attempt(loop, 0x77)
        for blocks in (8, 16):
            attempt(KernelSpec("row", None, RowGeometry(128, 1, 1, blocks)), 0)
        attempt(KernelSpec("missing", None, LoopGeometry(32)), 0)
        attempt(loop, 0x66)
    """
    context, refusal, *lines = told(library, code)
    assert context == "within 0x2900"
    assert "run the call once before the capture" in refusal
    here, load = "within 0x2900", "load some code in mode 2"
    row = "launch 0x3000 of 3 1 1 x 128 1 1, shared 0, on (nil): 16 bytes, 5 6"
    assert lines == [
        *(here, "compile loop (9, 0)", here, load, "function fastxent_loop"),
        *(here, "launch 0x3000 of 3 1 1 x 96 1 1, shared 0, on 0x6: 16 bytes, 5 6"),
        *(here, "launch 0x3000 of 3 1 1 x 96 1 1, shared 0, on 0x77: 16 bytes, 5 6"),
        *(here, "compile row (9, 0)", here, load, "function fastxent_row", here, row),
        *(here, "compile row (9, 0)", here, load, "function fastxent_row", "attribute 14 is 1"),
        *(here, row),
        *(here, "compile missing (9, 0)", here, load, "function fastxent_missing"),
        "cuModuleGetFunction: named symbol not found (CUDA error 500)",
        *(here, "launch 0x3000 of 3 1 1 x 96 1 1, shared 0, on 0x66: 16 bytes, 5 6"),
        "cuLaunchKernel: another error (CUDA error 719)",
    ]
