"""Peak memory of one call, beyond its inputs and its output.

A fresh process for each: ``python -m fastxent.bench.memory NAME ROWS CLASSES`` prints the bytes.
The high-water mark of the resident memory is reset just before the call, so that imports,
compilers, threads and the making of the data do not count.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path

from fastxent.bench import children
from fastxent.bench.peers import named
from fastxent.bench.peers.contract import Peer
from fastxent.bench.workloads import Workload

__all__ = ["peak_bytes", "peak_bytes_of_all", "why_not"]

# Large enough that the parallel kernels run, and everything is loaded that they need.
WARM_UP = (64, 4096)
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def why_not() -> str | None:
    """Why it cannot be measured here."""
    return None if CLEAR_REFS.exists() else "needs Linux: /proc/self/clear_refs"


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = STATUS.read_text().splitlines()
    line = next(line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def peak_bytes(peer: Peer, workload: Workload) -> int:
    """Measure one call in this process.

    Parameters
    ----------
    peer : Peer
    workload : Workload

    Returns
    -------
    int
        Bytes of resident memory at the peak of the call, over those before it; without the
        gradient, where the call allocates that.
    """
    peer.prepare(workload.resized(*WARM_UP))()
    call = peer.prepare(workload)
    if call.reset is not None:
        call.reset()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the call could use memory that is counted already
    CLEAR_REFS.write_text("5")
    before = _status("VmRSS")
    result = call.run()
    peak = _status("VmHWM") - before
    del result
    return max(0, peak - (workload.bytes_of_logits if call.allocates_output else 0))


def peak_bytes_of_all(names: list[str], workload: Workload) -> dict[str, int]:
    """Measure each peer of these names in a process of its own."""
    shape = (str(workload.rows), str(workload.classes), str(workload.threads))
    return {name: children.answer("memory", name, *shape) for name in names}


def main(name: str, rows: str, classes: str, threads: str) -> None:
    """Print the bytes of one peer."""
    workload = Workload(int(rows), int(classes), threads=int(threads))
    print("\n" + json.dumps(peak_bytes(named(name), workload)))


if __name__ == "__main__":
    main(*sys.argv[1:])
