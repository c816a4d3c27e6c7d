"""The numbers that fastxent is to reach, and those that it reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastxent.bench import aims_of_frameworks, aims_of_kinds
from fastxent.bench.aim import (
    Aim,
    for_both,
    from_measurement,
    ratios,
    scaled,
    smallest,
    smallest_share,
)
from fastxent.bench.document import Document
from fastxent.bench.measure import Measurement
from fastxent.bench.summary import COMPILED, geometric_mean, lower_ceiling, share, time_ratio
from fastxent.bench.workloads import HALVES

__all__ = ["HALF_INSTRUCTIONS", "INSTRUCTIONS", "LEVELS", "Aim", "aims"]

LONG_ROWS = ((8_192, 1_000), (1_024, 32_000), (512, 50_257), (256, 128_256))
SPLIT_ROWS = ((1, 1_048_576), (4, 262_144))
MANY_CLASSES = 1_000

# Instructions an element at most, on AVX-512; AVX2 has half the elements in a register.
INSTRUCTIONS = {
    ("cython", "hard", "float32"): 1.9,
    ("cython", "soft", "float32"): 2.5,
    ("cython", "hard", "float64"): 4.8,
    ("numba", "hard", "float32"): 2.2,
    ("numba", "soft", "float32"): 3.0,
    ("numba", "hard", "float64"): 5.5,
}
LEVELS = {"AVX-512": 1.0, "AVX2": 2.0}
# Half precision is asked for on AVX-512 alone.
HALF_INSTRUCTIONS = {(b, "hard", dtype): 2.8 for b in COMPILED for dtype in HALVES}

# A large index, whose products leave 32 bits.
LARGE_ELEMENTS = 2**31

# In place, no cache line is read only to be overwritten: that shows where memory is what binds.
IN_PLACE_BOUND_BY_COPY, IN_PLACE_ELSEWHERE = 0.95, 1.02


def aims(document: Document) -> list[Aim]:
    """Give all aims, each for both compiled backends."""
    return [aim for group in _GROUPS for aim in group(document)]


def _many_classes(measurements: list[Measurement]) -> list[Measurement]:
    return [m for m in measurements if m.workload.classes >= MANY_CLASSES]


def _shares(document: Document) -> Iterator[Aim]:
    for shape in LONG_ROWS:
        found = document.at(*shape)
        yield from for_both(
            f"share of the lower ceiling, {shape[0]} x {shape[1]}",
            (0.90, 0.85),
            from_measurement(found, lambda m, backend: share(m, f"{backend}/out")),
        )


def _in_place(document: Document) -> Iterator[Aim]:
    for shape in LONG_ROWS:
        found = document.at(*shape)
        ceiling = lower_ceiling(found) if found else None
        by_copy = ceiling is not None and ceiling.name == "copy"
        asked = IN_PLACE_BOUND_BY_COPY if by_copy else IN_PLACE_ELSEWHERE
        binds = f" ({ceiling.name} binds)" if ceiling else ""
        yield from for_both(
            f"time in place over `out=`, {shape[0]} x {shape[1]}{binds}",
            (asked, asked),
            from_measurement(
                found, lambda m, backend: time_ratio(m, f"{backend}/in place", f"{backend}/out")
            ),
            at_least=False,
        )


def _ratios(document: Document) -> Iterator[Aim]:
    everything = document.find()

    def mean(backend: str) -> float | None:
        numbers = ratios(everything, f"{backend}/out")
        return geometric_mean(numbers) if numbers else None

    title = "fastest peer's time over ours, "
    yield from for_both(title + "geometric mean of all shapes", (5.0, 4.5), mean)
    yield from for_both(
        title + "smallest", (2.5, 2.0), lambda b: smallest(ratios(everything, f"{b}/out"))
    )
    alone = document.find(threads=1)
    yield from for_both(
        title + "smallest, everybody on one thread",
        (2.0, 2.0),
        lambda b: smallest(ratios(alone, f"{b}/out")),
    )


def _soft_and_double(document: Document) -> Iterator[Aim]:
    soft = _many_classes(document.find(labels="soft"))
    double = document.find(dtype="float64")
    title = "smallest share of the lower ceiling, C ≥ 1000, "
    yield from for_both(title + "soft labels", (0.85, 0.80), lambda b: smallest_share(soft, b))
    yield from for_both(
        title + "float64", (0.85, 0.80), lambda b: smallest_share(_many_classes(double), b)
    )
    yield from for_both(
        "fastest peer's time over ours, smallest, float64",
        (3.0, 3.0),
        lambda b: smallest(ratios(double, f"{b}/out")),
    )


def _threads(document: Document) -> Iterator[Aim]:
    for shape in SPLIT_ROWS:
        found = document.at(*shape)
        yield from for_both(
            f"one thread's time over that of {document.threads}, {shape[0]} x {shape[1]}",
            (1.7, 1.6),
            from_measurement(
                found, lambda m, backend: time_ratio(m, f"{backend}/out x1", f"{backend}/out")
            ),
        )


def _small_things(document: Document) -> Iterator[Aim]:
    yield from for_both(
        "whole call at 32 x 10, best of many",
        (3.0, 6.0),
        lambda b: scaled(document.latency.get(f"{b}/out"), 1e6),
        at_least=False,
        unit="us",
    )
    yield from for_both(
        "peak memory beyond inputs and output, 256 x 128256",
        (4.0, 4.0),
        lambda b: scaled(document.memory.get(f"{b}/out"), 1e-6),
        at_least=False,
        unit="MB",
    )
    startup = document.startup
    for title, key, asked, unit, factor in (
        ("`import fastxent` over `import numpy`", "import", 20.0, "ms", 1e3),
        ("first Numba call, compiled before", "warm", 1.5, "s", 1.0),
        ("first Numba call, nothing compiled", "cold", 20.0, "s", 1.0),
    ):
        backend = "all" if key == "import" else "numba"
        yield Aim(title, backend, asked, scaled(startup.get(key), factor), False, unit)


def _instructions(document: Document) -> Iterator[Aim]:
    for most, levels in (
        (INSTRUCTIONS, LEVELS),
        (HALF_INSTRUCTIONS, {"AVX-512": LEVELS["AVX-512"]}),
    ):
        for labels, dtype in dict.fromkeys(key[1:] for key in most):
            for level, factor in levels.items():
                cython, numba = (factor * most[b, labels, dtype] for b in COMPILED)
                yield from for_both(
                    "instructions an element in the loops over long rows, "
                    f"{labels} labels, {dtype}, {level}",
                    (cython, numba),
                    _count_of(document, f"{labels} {dtype} {level}"),
                    at_least=False,
                )


def _count_of(document: Document, path: str) -> Callable[[str], float | None]:
    return lambda backend: document.instructions.get(f"{backend} {path}")


def _large(document: Document) -> Iterator[Aim]:
    found = document.large
    times = found["seconds_per_element"] if found else {}
    if found and found["large_elements"] <= LARGE_ELEMENTS:
        times = {}

    def ratio(backend: str) -> float | None:
        of_backend = times.get(backend)
        return of_backend["large"] / of_backend["small"] if of_backend else None

    title = "time an element in place at 2³¹ + 2²⁰ elements over that at 10⁸"
    yield from for_both(title, (1.2, 1.2), ratio, at_least=False)


_GROUPS = (
    _shares,
    _in_place,
    _ratios,
    _soft_and_double,
    _threads,
    _small_things,
    _instructions,
    _large,
    *aims_of_kinds.GROUPS,
    *aims_of_frameworks.GROUPS,
)
