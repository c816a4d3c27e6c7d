"""The numbers for half precision, other class axes, options, softmax and the binary loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastxent.bench.aim import Aim, for_both, from_measurement, ratios, smallest
from fastxent.bench.document import Document
from fastxent.bench.measure import Measurement, beside
from fastxent.bench.summary import peer_ratio, share, time_ratio
from fastxent.bench.workloads import (
    BINARY_ELEMENTS,
    CLASS_AXIS_SHAPES,
    HALF_SHAPES,
    HALVES,
    OPTIONS,
    OPTIONS_SHAPE,
    SOFTMAX_SHAPES,
)

__all__ = ["GROUPS"]

PYTORCH = ("PyTorch eager", "torch.compile")
# The soft cap takes a tanh for each element.
MOST_TIME = {option: 1.6 if option == "softcap" else 1.1 for option in OPTIONS}
MANY_CLASSES, FEW_CLASSES = 1_000, 10


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _half_precision(document: Document) -> Iterator[Aim]:
    for dtype in HALVES:
        for shape in HALF_SHAPES:
            found = document.at(*shape, dtype=dtype)
            where = f"{dtype}, {_text(shape)}"
            yield from for_both(
                f"time over the float32 call, {where}",
                (1.05, 1.05),
                from_measurement(
                    found,
                    lambda m, b: time_ratio(m, f"{b}/out", beside(f"{b}/out", "float32")),
                ),
                at_least=False,
            )
            yield from for_both(
                f"share of the lower ceiling, {where}",
                (0.85, 0.75),
                from_measurement(found, lambda m, b: share(m, f"{b}/out")),
            )
            yield from for_both(
                f"faster PyTorch's time over ours, {where}",
                (5.0, 5.0),
                from_measurement(found, lambda m, b: peer_ratio(m, f"{b}/out", PYTORCH)),
            )


def _class_axis_1(document: Document) -> Iterator[Aim]:
    found = {m.workload.shape: m for m in document.find_class_axis_1()}
    for shape in CLASS_AXIS_SHAPES:
        yield from for_both(
            f"fastest peer's time over ours, classes on axis 1 of {_text(shape)}",
            (4.0, 4.0),
            from_measurement(found.get(shape), lambda m, b: peer_ratio(m, f"{b}/out")),
        )


def _options(document: Document) -> Iterator[Aim]:
    found = document.at(*OPTIONS_SHAPE)
    for option, most in MOST_TIME.items():
        yield from for_both(
            f"time with {option} over that without, {_text(OPTIONS_SHAPE)}",
            (most, most),
            from_measurement(found, _time_with(option)),
            at_least=False,
        )


def _time_with(option: str) -> Callable[[Measurement, str], float | None]:
    return lambda m, backend: time_ratio(m, beside(f"{backend}/out", option), f"{backend}/out")


def _softmax(document: Document) -> Iterator[Aim]:
    everywhere: list[Measurement] = []
    for operation in ("softmax", "log_softmax"):
        for shape in SOFTMAX_SHAPES:
            found = document.at(*shape, operation=operation)
            everywhere += [found] if found else []
            where = f"{operation} with `out=`, {_text(shape)}"
            if shape[1] >= MANY_CLASSES:
                yield from for_both(
                    f"share of the lower ceiling, {where}",
                    (0.85, 0.85),
                    from_measurement(found, lambda m, b: share(m, f"{b}/out")),
                )
            if shape[1] == FEW_CLASSES:
                yield from for_both(
                    f"fastest peer's time over ours, {where}",
                    (2.5, 2.5),
                    from_measurement(found, lambda m, b: peer_ratio(m, f"{b}/out")),
                )
    yield from for_both(
        "SciPy's time over ours, softmax and log_softmax, smallest, with `out=` and without",
        (4.0, 4.0),
        lambda b: smallest(_both_ways(everywhere, b, "SciPy")),
    )


def _both_ways(measurements: list[Measurement], backend: str, peer: str) -> list[float] | None:
    """Give a peer's time over ours everywhere, into a buffer and into fresh memory."""
    numbers = [ratios(measurements, f"{backend}/{mode}", (peer,)) for mode in ("out", "new")]
    return None if None in numbers else [one for found in numbers for one in found or ()]


def _binary(document: Document) -> Iterator[Aim]:
    found = document.at(BINARY_ELEMENTS, 1, operation="binary")
    yield from for_both(
        f"fastest peer's time over ours, binary cross-entropy of {BINARY_ELEMENTS:,} elements",
        (4.0, 4.0),
        from_measurement(found, lambda m, b: peer_ratio(m, f"{b}/out")),
    )


GROUPS = (_half_precision, _class_axis_1, _options, _softmax, _binary)
