"""Loss and gradient on a graphics card, beside everybody else who is installed.

usage: python benchmarks/card.py [--into FOLDER] [--rehearse]

Prints the versions first, then a table, and writes card.json, card.md and card.svg. With
--rehearse small shapes run on the CPU, to see that everything works; those numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import fastxent as fx
from fastxent.bench.card.measure import latency, measure
from fastxent.bench.card.peers import versions
from fastxent.bench.card.report import CardDocument, draw, page
from fastxent.bench.card.workloads import REHEARSAL, WORKLOADS

RESULTS = Path(__file__).parent / "results"

# No workload is begun after this many seconds: the whole run is to end within ten minutes.
_BUDGET = 480

_FIRST_USE = """
import time, torch
logits = torch.randn(64, 1000, device="cuda")
labels = torch.zeros(64, dtype=torch.int64, device="cuda")
torch.cuda.synchronize()
start = time.perf_counter()
import fastxent as fx
fx.cross_entropy_and_grad(logits, labels, reduction="sum")
torch.cuda.synchronize()
print(time.perf_counter() - start)
"""


def first_use() -> dict[str, float]:
    """Seconds until a new process has its first gradient: with an empty cache, then with it."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "cached"):
            done = subprocess.run(
                [sys.executable, "-c", _FIRST_USE],
                env={**os.environ, "FASTXENT_CACHE_DIR": cache},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                print(f"first use, {name}: failed\n{done.stderr}", file=sys.stderr)
                return found
            found[name] = float(done.stdout)
    return found


def facts(device: str) -> dict[str, str]:
    """What there is to know about the card."""
    if device == "cpu":
        return {"card": "none: a REHEARSAL on the CPU"}
    properties = torch.cuda.get_device_properties(device)
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return {"card": properties.name, "capability": capability, "memory": memory}


def main(arguments: list[str]) -> int:
    """Measure, and keep what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--into", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--rehearse", action="store_true", help="small shapes, on the CPU")
    asked = parser.parse_args(arguments)
    reason = None if asked.rehearse else fx.backends()["cuda"]
    if reason is not None:
        print(f"nothing measured: {reason}")
        return 1
    device = "cpu" if asked.rehearse else "cuda"
    document = CardDocument(facts(device), versions())
    print("\n".join(f"{name} {text}" for name, text in document.versions.items()), flush=True)
    begin = time.monotonic()
    asked.into.mkdir(parents=True, exist_ok=True)

    def progress(doing: str) -> None:
        print(f"{time.monotonic() - begin:5.0f} s  {doing}", file=sys.stderr, flush=True)

    for workload in REHEARSAL if asked.rehearse else WORKLOADS:
        if time.monotonic() - begin > _BUDGET:
            progress(f"{workload.title}: no time is left for it")
            continue
        try:
            document.measurements.append(measure(workload, device, progress))
        except RuntimeError as error:  # of the driver, or of memory: what was measured is kept
            progress(f"{workload.title}: failed: {error}")
        document.save(asked.into / "card.json")
    document.latency = latency(device, progress)
    if not asked.rehearse:
        document.first_use = first_use()
    document.save(asked.into / "card.json")
    text = page(document)
    (asked.into / "card.md").write_text(text)
    print(text)
    reason = draw(document.measurements, document.card["card"], asked.into / "card.svg")
    if reason is not None:
        print(reason)
    wrong = [r for one in document.measurements for r in one.skipped.values() if "WRONG" in r]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
