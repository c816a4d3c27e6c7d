"""The tables of the README and of docs/, written from a document."""

from __future__ import annotations

from fastxent.bench import machine, tables
from fastxent.bench.aims import aims
from fastxent.bench.ceilings import COPY, COPY_IN_PLACE, is_copy
from fastxent.bench.document import Document
from fastxent.bench.measure import Measurement
from fastxent.bench.summary import (
    copy_share,
    fastest_peer,
    lower_ceiling,
    peer_ratio,
    share,
    shown,
)
from fastxent.bench.tables import comparison, milliseconds, percent, table, times
from fastxent.bench.workloads import OPTIONS_SHAPE

__all__ = ["readme_section", "replaced", "results_page"]


def replaced(page: str, section: str, marker: str = "bench") -> str:
    """Put a section between two markers of a page, instead of what stands there."""
    first, last = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    before, _, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not end:
        raise ValueError(f"the page has no {first} ... {last}")
    return f"{before}{first}\n{section}\n{last}{after}"


def readme_section(document: Document) -> str:
    """Write what stands between the markers of the README."""
    threads = document.threads
    return f"""\
Loss and gradient, float32, class indices, {threads} threads; milliseconds, the median of
interleaved rounds. *Of the ceiling*: the share that the faster backend reaches of what memory (a
plain copy of the same bytes) or arithmetic (the kernel on data in cache) allows, whichever is less.
*times*: how many times as long the fastest of the others takes.

{comparison(document.find())}
{_readme_kinds(document)}
![Time of the others over that of fastxent](docs/pictures/peers.svg)

{machine.summary(document.machine)}. [All results](docs/benchmark-results.md), and
[how they are measured](docs/benchmarks.md). On your machine: `fastxent bench`."""


def _readme_kinds(document: Document) -> str:
    parts = []
    if tables.kinds(document):
        parts.append(f"The rest, in the same run:\n\n{tables.overview(document)}")
    if found := tables.options(document):
        parts.append(f"What an option takes, {_options_title()}:\n\n{found}")
    parts += _framework_parts(document)
    return "".join(f"\n{part}\n" for part in parts)


def _framework_parts(document: Document) -> list[str]:
    parts = []
    if found := tables.inside_frameworks(document):
        parts.append(
            "Inside PyTorch and JAX, loss and gradient as in training (`backward()`, jitted "
            f"`value_and_grad`), float32, in the same rounds:\n\n{found}\n\n"
            "![Inside the frameworks](docs/pictures/frameworks.svg)"
        )
    if found := tables.contests(document):
        parts.append(
            "For boosting, called as the libraries call a custom objective; JAX where memory is "
            "kept ([how](docs/jax.md#memory)); whole fits of a softmax regression:\n\n"
            f"{found}"
        )
    return parts


def _options_title() -> str:
    return f"at {' x '.join(map(str, OPTIONS_SHAPE))}, float32, class indices"


def details(measurement: Measurement) -> str:
    """Make the table of one workload: everybody, fastest first."""
    rows = []
    for name, timing in sorted(measurement.timings.items(), key=lambda item: item[1].median):
        rows.append(
            [
                shown(name),
                milliseconds(measurement, name),
                f"{1e3 * timing.lower:.3g} to {1e3 * timing.upper:.3g}",
                f"{measurement.workload.counted_bytes / timing.median / 1e9:.1f}",
                percent(copy_share(measurement, name)),
                percent(share(measurement, name)),
                "-" if is_copy(name) else times(peer_ratio(measurement, name)),
                str(timing.rounds),
            ]
        )
    shares = ("of the copy limit", "of the ceiling")
    return table(["", "ms", "quartiles", "GB/s", *shares, "fastest peer / this", "rounds"], rows)


def _ceilings(measurement: Measurement) -> str:
    ceiling = lower_ceiling(measurement)
    slopes = ", ".join(
        f"{1e3 * seconds:.3g} ms by {name}" for name, seconds in measurement.arithmetic.items()
    )
    binds = f"**{ceiling.name}** binds" if ceiling else "none measured"
    return (
        f"Ceilings: copy {milliseconds(measurement, COPY)} ms, in place "
        f"{milliseconds(measurement, COPY_IN_PLACE)} ms; arithmetic {slopes}; {binds}."
    )


def _workload_section(measurement: Measurement) -> str:
    lines = [f"### {measurement.workload}", "", _ceilings(measurement), "", details(measurement)]
    for name, reason in measurement.skipped.items():
        lines += ["", f"Not timed: {name}: {reason.splitlines()[0]}"]
    return "\n".join(lines)


def _aims_table(document: Document) -> str:
    rows = [
        [aim.title, aim.backend, aim.asked_text, aim.measured_text, aim.verdict]
        for aim in aims(document)
    ]
    return table(["aim", "backend", "asked", "measured", ""], rows)


def _others(document: Document) -> str:
    names = list(dict.fromkeys([*document.latency, *document.memory]))
    rows = []
    for name in names:
        seconds, size = document.latency.get(name), document.memory.get(name)
        rows.append(
            [
                shown(name),
                "-" if seconds is None else f"{1e6 * seconds:.1f}",
                "-" if size is None else f"{size / 1e6:.1f}",
            ]
        )
    headings = ["", "call at 32 x 10, us, best of many", "peak memory at 256 x 128256, MB"]
    return table(headings, rows)


def _large(document: Document) -> str:
    if not document.large:
        return "Not measured in this run: `make bench-large`."
    rows = [
        [
            backend,
            *(f"{1e9 * times[key]:.4f}" for key in ("small", "large")),
            f"{times['large'] / times['small']:.3f}",
        ]
        for backend, times in document.large["seconds_per_element"].items()
    ]
    small, large = (document.large[key] for key in ("small_elements", "large_elements"))
    headings = ["backend", f"{small:,} elements, ns each", f"{large:,} elements, ns each", "ratio"]
    return table(headings, rows)


def results_page(document: Document) -> str:
    """Write docs/benchmark-results.md."""
    kinds = (
        (f"float32, class indices, {document.threads} threads", document.find()),
        (f"float64, class indices, {document.threads} threads", document.find(dtype="float64")),
        (f"float32, probabilities, {document.threads} threads", document.find(labels="soft")),
        (
            f"float64, probabilities, {document.threads} threads",
            document.find(labels="soft", dtype="float64"),
        ),
        ("float32, class indices, one thread for everybody", document.find(threads=1)),
        *tables.kinds(document),
    )
    present = [(title, found) for title, found in kinds if found]
    shown = "\n\n".join(f"### {title}\n\n{comparison(found)}" for title, found in present)
    every = "\n\n".join(_workload_section(m) for _, found in present for m in found)
    options = tables.options(document)
    if options:
        options = f"\n### Options, {_options_title()}\n\n{options}\n"
    frameworks = "".join(
        f"\n{part.replace('](docs/', '](')}\n" for part in _framework_parts(document)
    )
    slowest = ", ".join(sorted({fastest_peer(m) or "-" for m in document.find()}))
    return f"""\
# Benchmark results

Written by `make bench-report` from benchmarks/results/latest.json; [how to read
them](benchmarks.md). {machine.summary(document.machine)}.

## Aims

{_aims_table(document)}

## Times

Milliseconds, medians. The fastest of the others are {slowest}.

{shown}
{options}{frameworks}
![Time of the others over that of fastxent](pictures/peers.svg)
![Share of the copy limit](pictures/roofline.svg)
![What the second thread brings](pictures/threads.svg)

## Small calls and memory

{_others(document)}

![Peak memory](pictures/memory.svg)

## More than 2³¹ elements, in place

{_large(document)}

## Everything

{every}
"""
