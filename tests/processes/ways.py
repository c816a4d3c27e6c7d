"""The ways into another process or thread, each of which calls every backend it is given.

A way takes the names of backends and gives what `answers.measured` found, once for each backend and
each process or thread that was started. None waits for longer than a minute for any of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from processes.answers import answers, measured

__all__ = ["FORKING", "NEEDS", "WAYS", "Answer", "Way"]

Answer = dict[str, Any]
Way = Callable[[Sequence[str]], list[Answer]]

_WAIT = 60  # seconds


def _all(backends: Sequence[str]) -> list[Answer]:
    return [measured(backend) for backend in backends]


def _in_fork(work: Callable[[], list[Answer]]) -> list[Answer]:
    """Run in a forked child what gives answers."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(_WAIT)
            os.write(send, json.dumps(work()).encode())  # less than a pipe holds
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(send)
    with os.fdopen(receive) as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise RuntimeError(f"the forked child {how}")
    found: list[Answer] = json.loads(text)
    return found


def fork(backends: Sequence[str]) -> list[Answer]:
    """A forked child."""
    return _in_fork(lambda: _all(backends))


def double_fork(backends: Sequence[str]) -> list[Answer]:
    """A forked child and its own forked child, before it has called anything and after."""
    first = _in_fork(lambda: _in_fork(lambda: _all(backends)))
    return first + _in_fork(lambda: _all(backends) + _in_fork(lambda: _all(backends)))


def fork_in_thread(backends: Sequence[str]) -> list[Answer]:
    """A child forked from a thread that has run threads of its own, while another one calls."""
    found: list[list[Answer]] = []
    stop = threading.Event()

    def call_on() -> None:
        while not stop.is_set():
            for backend in backends:
                answers(backend)

    def call_and_fork() -> None:
        for backend in backends:
            answers(backend)
        found.append(fork(backends))

    others = [threading.Thread(target=call_on), threading.Thread(target=call_and_fork)]
    for thread in others:
        thread.start()
    others[1].join(2 * _WAIT)
    stop.set()
    others[0].join(_WAIT)
    if not found:
        raise RuntimeError("the thread that forks gave nothing")
    return found[0]


def _in_pool(method: str, backends: Sequence[str]) -> list[Answer]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        jobs = pool.map_async(measured, [*backends, *backends], chunksize=1)
        return jobs.get(2 * _WAIT)


def pool_fork(backends: Sequence[str]) -> list[Answer]:
    """A pool of forked processes."""
    return _in_pool("fork", backends)


def pool_spawn(backends: Sequence[str]) -> list[Answer]:
    """A pool of spawned processes."""
    return _in_pool("spawn", backends)


def pool_forkserver(backends: Sequence[str]) -> list[Answer]:
    """A pool of processes that a server forks."""
    return _in_pool("forkserver", backends)


class _Answers:
    """A data set of PyTorch whose items are answers."""

    def __init__(self, backends: Sequence[str]) -> None:
        self._backends = [*backends, *backends]

    def __len__(self) -> int:
        return len(self._backends)

    def __getitem__(self, at: int) -> Answer:
        return measured(self._backends[at])


def data_loader(backends: Sequence[str]) -> list[Answer]:
    """Forked workers of a PyTorch DataLoader, after PyTorch has run threads too."""
    import torch

    torch.log_softmax(torch.zeros(400, 1000), 1)
    loader = torch.utils.data.DataLoader(
        _Answers(backends),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        timeout=_WAIT,
    )
    return list(loader)


@contextmanager
def _server(backends: Sequence[str]) -> Iterator[int]:
    """Port of a gunicorn that has loaded its application before it forks two workers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        place = listener.fileno()
        command = ["--preload", "--workers", "2", "--bind", f"fd://{place}", "--timeout", "60"]
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *command, "processes.server:application"],
            env=os.environ | {"SERVED_BACKENDS": " ".join(backends)},
            pass_fds=[place],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield listener.getsockname()[1]
        finally:
            server.terminate()
            try:
                server.communicate(timeout=_WAIT)
            except subprocess.TimeoutExpired:
                server.kill()
                server.communicate()


def server(backends: Sequence[str]) -> list[Answer]:
    """Workers of a pre-forking web server (gunicorn --preload), asked over the loopback."""
    with _server(backends) as port:
        found: list[Answer] = []
        for _ in range(4):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2 * _WAIT) as reply:
                found += json.load(reply)
    return found


def loky(backends: Sequence[str]) -> list[Answer]:
    """Processes of joblib."""
    import joblib

    jobs = [joblib.delayed(measured)(backend) for backend in [*backends, *backends]]
    return list(joblib.Parallel(n_jobs=2, backend="loky", timeout=2 * _WAIT)(jobs))


def joblib_threads(backends: Sequence[str]) -> list[Answer]:
    """Threads of joblib."""
    import joblib

    jobs = [joblib.delayed(measured)(backend) for backend in [*backends] * 8]
    return list(joblib.Parallel(n_jobs=8, backend="threading")(jobs))


def dask_threads(backends: Sequence[str]) -> list[Answer]:
    """Threads of dask's scheduler."""
    import dask

    jobs = [dask.delayed(measured, pure=False)(backend) for backend in [*backends] * 8]
    return list(dask.compute(*jobs, scheduler="threads", num_workers=8))


WAYS: dict[str, Way] = {
    way.__name__: way
    for way in (
        fork,
        double_fork,
        fork_in_thread,
        pool_fork,
        data_loader,
        server,
        pool_spawn,
        pool_forkserver,
        loky,
        joblib_threads,
        dask_threads,
    )
}

# Ways whose processes are forks of one that has used threads, and what ways need.
FORKING = ("fork", "double_fork", "fork_in_thread", "pool_fork", "data_loader", "server")
NEEDS = {
    "data_loader": "torch",
    "server": "gunicorn",
    "loky": "joblib",
    "joblib_threads": "joblib",
    "dask_threads": "dask",
}
