"""What a fork finds ready: kernels that are compiled, and no lock that nobody opens."""

import os
import textwrap

import pytest

import fastxent as fx
from processes.runs import environment, run

REASON = fx.backends()["numba"]
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"numba: {REASON}"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
]


def check(code, **variables):
    """Run code in a process of its own, which forks and tells how the child ended."""
    arguments = ["-W", "error", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)]
    _, fault = run(arguments, environment(None, **variables), 300)
    assert not fault, fault


IN_CHILD = """
    import os, signal
    def in_child(work):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                work()
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_child_compiles_nothing_that_its_parent_has_run():
    """With many threads in the parent, and one in the child."""
    check(
        IN_CHILD
        + """
    from numba.core import event
    from processes.answers import answers

    with event.install_recorder("numba:compile") as in_parent:
        bits = answers("numba")
    assert in_parent.buffer

    def nothing_new():
        with event.install_recorder("numba:compile") as found:
            assert answers("numba") == bits
        assert not found.buffer, found.buffer

    in_child(nothing_new)
    """,
        FASTXENT_NUMBA_CACHE="0",
    )


def test_a_child_of_a_fork_amid_compiling_can_compile():
    """The thread that compiles does not live on in the child, where its lock must be open."""
    check(
        IN_CHILD
        + """
    import sys, threading, time
    import numba
    from numba.core import event
    import fastxent as fx
    assert fx.backends()["numba"] is None
    amid, forked = threading.Event(), threading.Event()
    os.register_at_fork(after_in_parent=forked.set, after_in_child=forked.set)
    main = threading.main_thread().ident

    def main_waits():
        frame = sys._current_frames()[main]
        while frame is not None and not frame.f_code.co_filename.endswith("forks.py"):
            frame = frame.f_back
        return frame is not None

    class Amid(event.Listener):
        def on_start(self, event):
            amid.set()
            while not forked.is_set() and not main_waits():
                time.sleep(0.001)
        def on_end(self, event):
            pass

    def compile_in_thread():
        with event.install_listener("numba:compile", Amid()):
            numba.njit(lambda x: x + 1)(1)

    thread = threading.Thread(target=compile_in_thread)
    thread.start()
    assert amid.wait(100)
    with fx.use_backend("numba"):
        in_child(lambda: fx.check_labels([0, 2], 3))
    thread.join()
    """,
        FASTXENT_NUMBA_CACHE="0",
    )


@pytest.mark.skipif(
    fx.backends()["cython"] is not None, reason=f"cython: {fx.backends()['cython']}"
)
@pytest.mark.parametrize(
    ("of_parent", "of_child"), [("cython", ("numba", "numpy")), ("numba", ("cython", "numpy"))]
)
def test_a_child_calls_what_its_parent_never_did(of_parent, of_child):
    """The parent used one backend on many threads; the child ends within a minute, or is killed."""
    check(
        """
    import os
    from processes.answers import answers
    from processes.ways import fork

    answers(os.environ["OF_PARENT"])
    asked = os.environ["OF_CHILD"].split()
    found = fork(asked)
    assert [one["backend"] for one in found] == asked
    for one in found:
        assert one["threads"] == 1, one
        assert one["digest"] == answers(one["backend"]), one
    """,
        OF_PARENT=of_parent,
        OF_CHILD=" ".join(of_child),
    )
