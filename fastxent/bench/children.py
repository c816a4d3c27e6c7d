"""Processes of their own, for what a process can be asked only once or only when it is fresh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any

from fastxent.bench.measure import Measurement
from fastxent.bench.timer import Plan
from fastxent.bench.workloads import Workload

__all__ = ["Worker", "answer", "answer_to_code"]


def answer(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run ``python -m fastxent.bench.<module>`` and give the JSON of its last line."""
    command = [sys.executable, "-m", f"fastxent.bench.{module}", *arguments]
    return _answer(command, environment or {})


def answer_to_code(code: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run a program text in a fresh process and give the JSON of its last line."""
    return _answer([sys.executable, "-c", code], environment or {})


def _answer(command: list[str], environment: Mapping[str, str]) -> Any:
    result = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment}
    )
    return json.loads(result.stdout.splitlines()[-1])


class Worker:
    """A process that has so many CPUs and no more, and measures one workload after another.

    PyTorch and JAX choose their threads when they are loaded, by the CPUs that they find then.
    """

    def __init__(self, cpus: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastxent.bench.worker", str(cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, workload: Workload, plan: Plan) -> Measurement:
        """Measure fastxent with ``out=``, and everybody else."""
        request = {"workload": workload.as_dict(), "plan": vars(plan)}
        self._pipe("stdin").write(json.dumps(request) + "\n")
        self._pipe("stdin").flush()
        line = self._pipe("stdout").readline()
        if not line:
            raise RuntimeError(f"the worker ended with code {self._process.wait()}")
        return Measurement.from_dict(json.loads(line))

    def _pipe(self, name: str) -> IO[str]:
        pipe: IO[str] = getattr(self._process, name)
        return pipe

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe("stdin").close()
        self._process.wait()
        self._pipe("stdout").close()
