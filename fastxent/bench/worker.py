"""``python -m fastxent.bench.worker CPUS``: one request a line in, one measurement a line out."""

from __future__ import annotations

import json
import os
import sys

from fastxent.bench import machine
from fastxent.bench.measure import measure
from fastxent.bench.peers import others, own
from fastxent.bench.timer import Plan
from fastxent.bench.workloads import Workload

__all__ = ["main"]


def main(cpus: int) -> None:
    """Serve until the input ends."""
    machine.pin(cpus)
    # What libraries print to the standard output goes to the standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        workload, plan = Workload.from_dict(request["workload"]), Plan(**request["plan"])
        measurement = measure(workload, own(("out",)) + others(), plan)
        print(json.dumps(measurement.as_dict()), file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
