"""The numbers for fastxent as the loss backend of other frameworks."""

from __future__ import annotations

from collections.abc import Iterator

from fastxent.bench.aim import Aim
from fastxent.bench.contests import BOOSTING, FITTING
from fastxent.bench.document import Document
from fastxent.bench.measure import Measurement
from fastxent.bench.summary import time_ratio

__all__ = ["FRAMEWORK_SHAPES", "GROUPS"]

FRAMEWORK_SHAPES = ((8_192, 1_000), (1_024, 32_000), (256, 128_256))

# The peer's time over ours at these shapes.
ASKED = {
    ("fastxent.torch", "PyTorch eager"): (2.8, 5.0, 6.0),
    ("fastxent.torch", "torch.compile"): (1.4, 3.0, 5.0),
    ("fastxent.jax", "JAX"): (1.5, 3.0, 4.5),
}
SMALL_CALL = 1.5


def _training_calls(document: Document) -> Iterator[Aim]:
    for (adapter, peer), asked in ASKED.items():
        for shape, least in zip(FRAMEWORK_SHAPES, asked, strict=True):
            found = document.at(*shape)
            measured = None if found is None else _ratio(found, peer, adapter)
            title = f"{peer}'s time over that of {adapter}, loss and gradient, "
            yield Aim(title + " x ".join(map(str, shape)), "cython", least, measured)


def _ratio(measurement: Measurement, peer: str, adapter: str) -> float | None:
    return time_ratio(measurement, peer, adapter)


def _small_call(document: Document) -> Iterator[Aim]:
    ours, theirs = (document.latency.get(k) for k in ("fastxent.torch", "PyTorch eager"))
    ratio = ours / theirs if ours and theirs else None
    title = "fastxent.torch's time over that of PyTorch eager, loss and gradient, 32 x 10"
    yield Aim(title, "cython", SMALL_CALL, ratio, at_least=False)


def _contests(document: Document) -> Iterator[Aim]:
    for asked, contests in ((8.0, BOOSTING), (1.0, FITTING)):
        for title, names in contests.items():
            for name in names:
                found = document.contest(title)
                ratio = None if found is None else found.ratio(name)
                yield Aim(f"{name}'s time over ours, {title}", "cython", asked, ratio)


GROUPS = (_training_calls, _small_call, _contests)
