"""docs/accuracy.md, from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields

import accuracy_exponential as exponential
import accuracy_rows as rows

OURS = ("cython", "numba", "numpy")
MEASURES = {
    "loss": "Loss of a row: error over max(1, |loss|)",
    "mean": "Mean of the losses: error over max(1, |mean|)",
    "gradient": "Gradient: error relative to its largest entry",
    "row_sum": "Gradient: |sum of a row|, which is 0 in truth",
}
AIMED = ("loss", "mean")
INTRODUCTION = """# Accuracy

Written by `{command}`, never by hand. The numbers are
largest errors, not typical ones. They depend on the instruction level and on the versions below,
and on nothing else of the machine: not on its speed, and for fastxent not on the number of threads.

{versions}

**Inputs.** `flat` logits are standard normal, `peaked` ones are too but for one in ten, which is 20
times as large, and `offset` ones lie around 10,000, where float32 numbers are 0.001 apart. Hard
labels are drawn evenly, soft labels are random masses on all classes. For each number of classes
there are {seeds} batches of {elements:,} logits or {rows:,} rows, whichever is less. Every
implementation gets the same numbers.

**Truth.** Textbook formulas in long double (64 bits of mantissa), from exactly the logits that
the implementations get. {judge}

**Others.** PyTorch is `torch.nn.functional.cross_entropy`, eager, and `torch.exp`; JAX is
`jax.nn.log_softmax` with `jax.value_and_grad` under `jax.jit`, and `jax.numpy.exp`. The aims are
fastxent's; a number above an aim is **bold**, whoever's it is.
{missing}"""
EXPONENTIAL = """
## The exponential

The largest error in units in the last place (ULP) of exp(x) for x <= 0, aim 1, and exactly 1 at 0
and 0 at -inf. A result may be 0 where the truth is below the smallest normal number. For fastxent
these are the exponentials that the kernels store: with a class weight that equals the row's sum of
exponentials, the gradient is the exponential itself.

float32 is judged by exp in float64; float64 by exp in long double, at points spread over
[-745, 0], near 0, and around the multiples of log(2)/2 where the reduction of the argument turns.

"""
GROWTH = """
## The worst of each

All classes, kinds and labels together. The last columns are the error at {most:,} classes over
that at {base:,}, the largest of all kinds and labels (where the error at {base:,} is below half a
machine epsilon, over that): a sum whose error grows with the classes shows here. Aim: at most
{growth:g}, in each of the two.

"""


@dataclass
class Measured:
    """All results of one run."""

    command: str
    versions: dict[str, str]
    missing: dict[str, str]  # implementations that did not run, and why
    seeds: int
    judge: str
    exponentials: list[exponential.Result] = field(default_factory=list)
    errors: dict[tuple[str, rows.Batch], rows.Errors] = field(default_factory=dict)

    def classes(self) -> tuple[int, ...]:
        """Numbers of classes that were measured."""
        return tuple(sorted({batch.classes for _, batch in self.errors}))

    def names(self) -> list[str]:
        """Implementations that ran."""
        return list(dict.fromkeys(name for name, _ in self.errors))

    def by_classes(self, name: str, dtype: str, labels: str, kind: str) -> dict[int, rows.Errors]:
        """Errors of one implementation on one kind of input."""
        return {
            count: self.errors[name, rows.Batch(dtype, labels, kind, count)]
            for count in self.classes()
        }

    def growth(self, name: str, dtype: str) -> dict[str, float]:
        """Largest growth of loss and gradient over all kinds of input."""
        ratios = [
            rows.grown(self.by_classes(name, dtype, labels, kind), dtype)
            for labels in rows.LABELS
            for kind in rows.KINDS
        ]
        return {measure: max(ratio[measure] for ratio in ratios) for measure in ratios[0]}

    def misses(self) -> list[str]:
        """Every aim that a backend of fastxent misses, in words."""
        found = [
            f"exp, {one.name} {one.dtype}: {one.worst:.3f} ULP at {one.at!r}"
            + ("" if one.ends else ", and not exact at 0 or -inf")
            for one in self.exponentials
            if one.name in OURS and not one.met
        ]
        for (name, batch), errors in self.errors.items():
            limit = rows.aim(batch.dtype, batch.classes)
            for measure in AIMED:
                error = getattr(errors, measure)
                if name in OURS and not error <= limit:
                    where = f"{batch.dtype}, {batch.labels} {batch.kind}, C = {batch.classes}"
                    found.append(f"{measure}, {name} {where}: {error:.2e} > {limit:.2e}")
        for name in self.names():
            for dtype in rows.DTYPES:
                for measure, ratio in self.growth(name, dtype).items():
                    if name in OURS and not ratio <= rows.GROWTH:
                        found.append(f"{measure}, {name} {dtype}: grows {ratio:.1f} times with C")
        return found


def table(header: Sequence[str], lines: Iterable[Sequence[str]], words: int) -> str:
    """Table whose columns line up; the first `words` columns to the left, the rest to the right."""
    lines = [tuple(header), *map(tuple, lines)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    side: list[Callable[[str, int], str]] = [
        str.ljust if i < words else str.rjust for i in range(len(widths))
    ]
    rule = ["-" * w if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    padded = [[put(*pair) for put, *pair in zip(side, line, widths, strict=True)] for line in lines]
    padded.insert(1, rule)
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _marked(error: float, limit: float) -> str:
    return f"{error:.1e}" if error <= limit else f"**{error:.1e}**"


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _exponentials(results: list[exponential.Result]) -> str:
    lines = []
    for one in results:
        points = "every one" if one.every else f"{one.points:,}"
        ends = "yes" if one.ends else "**no**"
        cells = (one.name, one.dtype, points, f"{one.worst:.3f}", f"{one.at:.9g}", ends)
        lines.append((*cells, f"{one.seconds:.0f} s", _verdict(one.met)))
    header = ("exp of", "dtype", "points", "largest ULP", "at x =", "exact ends", "took", "aim")
    return table(header, lines, 2)


def _measure(measured: Measured, measure: str, dtype: str, labels: str) -> str:
    lines = []
    limited = measure in AIMED
    for kind in rows.KINDS:
        for name in measured.names():
            errors = measured.by_classes(name, dtype, labels, kind)
            found = {count: getattr(one, measure) for count, one in errors.items()}
            limits = {n: rows.aim(dtype, n) if limited else float("inf") for n in found}
            cells = [_marked(found[count], limits[count]) for count in found]
            if limited:
                cells.append(_verdict(all(found[count] <= limits[count] for count in found)))
            lines.append((name, dtype, kind, *cells))
    header = ["", "dtype", "kind", *(f"C = {count:,}" for count in measured.classes())]
    if limited:
        lines.append(
            ("aim", dtype, "all", *(f"{rows.aim(dtype, n):.1e}" for n in measured.classes()), "")
        )
        header.append("aim")
    return table(header, lines, 3)


def _worst(measured: Measured) -> str:
    lines = []
    for name in measured.names():
        for dtype in rows.DTYPES:
            worst = rows.Errors()
            aims = True
            for (one, batch), errors in measured.errors.items():
                if (one, batch.dtype) == (name, dtype):
                    worst = worst.or_worse(errors)
                    limit = rows.aim(dtype, batch.classes)
                    aims &= all(getattr(errors, measure) <= limit for measure in AIMED)
            ulps = [one for one in measured.exponentials if (one.name, one.dtype) == (name, dtype)]
            growth = measured.growth(name, dtype)
            met = aims and all(one.met for one in ulps) and max(growth.values()) <= rows.GROWTH
            cells = [f"{max((one.worst for one in ulps), default=float('nan')):.3f}"]
            cells += [f"{getattr(worst, one.name):.1e}" for one in fields(rows.Errors)]
            cells += [f"{ratio:.2f}" for ratio in growth.values()]
            lines.append((name, dtype, *cells, _verdict(met)))
    header = ("", "dtype", "exp, ULP", "loss", "mean", "gradient", "row sum")
    return table((*header, "loss grows", "gradient grows", "aims"), lines, 2)


def write(measured: Measured) -> str:
    """The whole page."""
    gaps = "".join(f"Not measured: {name}: {why}.\n" for name, why in measured.missing.items())
    text = INTRODUCTION.format(
        command=measured.command,
        versions=table(("version of", ""), sorted(measured.versions.items()), 2).rstrip(),
        seeds=measured.seeds,
        elements=rows.ELEMENTS,
        rows=rows.MOST_ROWS,
        judge=measured.judge,
        missing=f"\n{gaps}" if gaps else "",
    )
    text += EXPONENTIAL + _exponentials(measured.exponentials)
    for dtype in rows.DTYPES:
        for labels in rows.LABELS:
            text += f"\n## {dtype}, {labels} labels\n"
            for measure, title in MEASURES.items():
                text += f"\n{title}:\n\n{_measure(measured, measure, dtype, labels)}"
    most = max(measured.classes())
    text += GROWTH.format(most=most, base=rows.GROWTH_BASE, growth=rows.GROWTH)
    return text + _worst(measured)
