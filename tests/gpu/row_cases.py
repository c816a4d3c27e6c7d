"""Rows for the kernels on the simulated GPU, and what the NumPy backend makes of them.

That one computes in float64, from the numbers as they are stored: what it gives is the truth here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.contract import KINDS, HessRule, Outputs
from fastxent.backends.cuda.specs import Variant
from fastxent.backends.numpy import BACKEND
from fastxent.precision import narrow, precision_of, widen
from fastxent.problem import Problem
from gpu.simulation.loading import aligned

FLOATS = KINDS[:4]
EPSILON = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}
DOUBLE = precision_of(np.dtype(np.float64))


def compute_of(kind):
    return np.float64 if kind == "float64" else np.float32


def stored(values, kind):
    if kind == "uint8":
        return np.asarray(values).astype(np.uint8)
    return narrow(np.asarray(values, compute_of(kind)), kind)


def numbers(array, kind):
    return widen(array, kind).astype(np.float64)


class Case(NamedTuple):
    """What a kernel gets: numbers as they are stored, options as in `Variant`."""

    variant: Variant
    logits: np.ndarray
    soft: np.ndarray | None
    labels: np.ndarray | None
    reals: dict[str, float]
    arrays: dict[str, np.ndarray]
    skip: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.logits.shape


def case_of(variant, rows, classes, *, seed=0, skip=None, label_kind="int64", options=()):
    """Peaked rows, a third of the labels on the peak; masked classes; factors of every kind."""
    rng = np.random.default_rng(seed)
    kind = variant.kind
    x = rng.normal(0, 2, (rows, classes))
    peaks = rng.integers(0, classes, rows)
    x[np.arange(rows), peaks] += 12
    labels = np.where(rng.random(rows) < 0.3, peaks, rng.integers(0, classes, rows))
    soft = None
    if variant.target not in ("none", "label"):
        soft = rng.random((rows, classes))
        soft[rng.random((rows, classes)) < 0.2] = 0
        if variant.target == "uint8":
            soft = soft < 0.3
        soft = stored(soft, variant.target)
    if classes > 2 and variant.mass == "label" and variant.transform == "plain":
        masked = (peaks + 1) % classes  # no mass there, be it at -inf
        x[np.arange(rows), masked] = -np.inf
        labels = np.where(labels == masked, peaks, labels)
        if soft is not None:
            soft[np.arange(rows), masked] = 0
    if variant.transform != "scaled":  # a product would be rounded at the height of the offset
        x[-1] -= 3e4
    if skip is not None:
        labels[::5] = skip
    reals = {"scale": 0.125, "spike": 1.0, "gain": 1.0, "logit_scale": 1.0, "hess_factor": 1.0}
    arrays: dict[str, np.ndarray] = {}
    if variant.mass == "uniform":
        reals |= {"background": 0.01, "background_total": 0.01 * classes, "gain": 0.9}
        reals["spike"] = 0.9
    if variant.mass == "classes":
        weight = rng.random(classes) * 2
        compute = compute_of(kind)
        arrays["spike_of"], arrays["gain_of"] = weight * 0.9, (weight * 0.9).astype(compute)
        arrays["background_of"] = (weight * 0.1 / classes).astype(compute)
        arrays["background_total_at"] = np.array([np.sum(arrays["background_of"], dtype="f8")])
    if variant.transform != "plain":
        reals["logit_scale"] = 0.75
    if variant.transform == "capped":
        reals["softcap"] = 5.0
    if variant.curvature:
        reals |= {"hess_factor": 1.5, "hess_floor": 1e-3}
    if "z_loss" in options:
        reals["z_loss"] = 0.01
    if "row_scale" in options:
        arrays["row_scale"] = rng.normal(size=rows)
    if "row_weight" in options:
        arrays["row_weight"] = rng.random(rows)
    if "denominator" in options:
        arrays["denominator"] = np.array([3.0])
    hard = labels.astype(label_kind) if variant.target == "label" else None
    return Case(variant, stored(x, kind), soft, hard, reals, arrays, skip)


def outputs_of(case):
    """Arrays by the names of the kernel's arguments: what the variant can give."""
    variant, (rows, classes) = case.variant, case.shape
    loss = compute_of(variant.kind)
    of_rows = {"row_max": loss, "row_sum": np.float64}
    if variant.task in ("loss", "grad"):
        of_rows |= {"loss": loss, "log_prob": loss, "lse": loss, "z_loss_of": loss}
        if variant.sides:
            of_rows |= {"argmax": np.int64, "entropy": loss, "correct": np.uint8}
    outputs = {name: np.full(rows, 77, dtype) for name, dtype in of_rows.items()}
    return outputs, {name: (rows, classes) for name in written_of(variant)}


def written_of(variant):
    """Arrays with an entry a class, and their kinds."""
    if variant.task in ("softmax", "log_softmax"):
        return {"proba": variant.kind}
    names = {} if variant.task == "loss" else {"grad": variant.kind}
    if variant.curvature:
        names["proba"] = variant.kind
    if variant.curvature in ("product", "distance"):
        names["hess"] = variant.kind
    if variant.target_grad:
        names["target_grad"] = variant.kind if variant.target == "uint8" else variant.target
    return names


def truth_of(case):
    """Every output in float64; and T, which says how large gradients can be."""
    variant, (rows, classes), reals, arrays = case.variant, case.shape, case.reals, case.arrays
    x = numbers(case.logits, variant.kind)
    hard = variant.target == "label"
    counted = np.ones(rows, bool) if case.skip is None or not hard else case.labels != case.skip
    bad = counted & ((case.labels < 0) | (case.labels >= classes)) if hard else ~counted
    good_labels = np.where(bad, 0, case.labels) if hard else None
    has_mass = variant.mass != "label"
    given = {name: arrays.get(f"{name}_of", reals.get(name)) for name in ("spike", "gain")}
    background = arrays.get("background_of", reals.get("background")) if has_mass else None
    scale = arrays.get("row_scale", reals["scale"]) / arrays.get("denominator", [1.0])[0]
    problem = Problem(
        given=x,
        logits=x,
        precision=DOUBLE,
        axis=1,
        num_threads=1,
        rows=rows,
        classes=classes,
        class_offset=0,
        num_classes=classes,
        target=good_labels,
        soft=None if case.soft is None else numbers(case.soft, variant.target),
        soft_kind=None if case.soft is None else "float64",
        skip=case.skip,
        spike=given["spike"],
        background=background if background is None else np.float64(background),
        background_total=arrays.get("background_total_at", [reals.get("background_total", 0)])[0],
        gain=np.float64(given["gain"]) if has_mass and not hard else None,
        row_scale=scale,
        logit_scale=reals["logit_scale"],
        softcap=reals.get("softcap"),
        z_loss=reals.get("z_loss", 0.0),
        hess_rule=HessRule(
            variant.curvature if variant.curvature != "proba" else "product",
            reals["hess_factor"],
            reals.get("hess_floor", 0.0),
        ),
    )
    out = Outputs(
        loss=np.zeros(rows),
        grad=np.zeros(x.shape),
        proba=np.zeros(x.shape),
        hess=np.zeros(x.shape),
        row_max=np.zeros(rows),
        row_sum=np.zeros(rows),
        log_prob=np.zeros(rows),
        argmax=np.zeros(rows, np.int64),
        entropy=np.zeros(rows),
        target_grad=None if case.soft is None else np.zeros(x.shape),
    )
    BACKEND.forward(problem, out)
    with np.errstate(all="ignore"):
        lse = np.where(counted, out.row_max + np.log(out.row_sum), 0)
        out.loss *= arrays.get("row_weight", 1.0)
        z_loss = reals.get("z_loss", 0.0) * lse**2
    truth: dict[str, Any] = {name: getattr(out, name) for name in Outputs.__slots__}
    truth |= {"lse": lse, "z_loss_of": z_loss}
    if variant.task in ("softmax", "log_softmax"):
        plain = Outputs(proba=out.proba, log_proba=np.zeros(x.shape))
        BACKEND.softmax(problem, plain)
        truth["proba"] = plain.proba if variant.task == "softmax" else plain.log_proba
    target_of = case.labels if hard else None if case.soft is None else problem.soft.argmax(axis=1)
    truth["correct"] = (out.argmax >= 0) & (out.argmax == target_of)
    for name in ("grad", "hess"):
        truth[name][bad] = 0
    truth["loss"][bad] = truth["log_prob"][bad] = np.nan
    truth["correct"][bad] = False
    return truth


def integers_of(case):
    rows, classes = case.shape
    integers = {**case.arrays, "logits": case.logits, "rows": rows, "classes": classes}
    integers |= {"logits_pitch": classes}
    if case.labels is not None:
        integers |= {"labels": aligned(case.labels), "skip": case.skip or 0}
        integers |= {"label_kind": KINDS.index(case.labels.dtype.name)}
        integers |= {"has_skip": case.skip is not None}
    return integers


def check(case, found):
    """Within a few roundings of what computes and, of what is stored, half a unit."""
    variant, (rows, classes) = case.variant, case.shape
    kind = variant.kind
    epsilon = np.finfo(compute_of(kind)).eps
    truth = truth_of(case)
    scale = np.abs(case.arrays.get("row_scale", case.reals["scale"])).max()
    mass = classes if case.soft is not None else 2
    kinds = written_of(variant)
    for name, values in found.items():
        expected = truth.get(name)
        if name in ("argmax", "correct"):
            np.testing.assert_array_equal(values, expected, err_msg=name)
        elif name in kinds:
            rounding = EPSILON[kinds[name]]
            tiny = 2.0**-24 if kinds[name] == "float16" else 0
            size = {"proba": 1.0, "target_grad": 16 * scale}.get(name, mass * scale)
            np.testing.assert_allclose(
                numbers(values, kinds[name]),
                expected,
                rtol=64 * epsilon + 1.01 * rounding,
                atol=8 * epsilon * size + tiny,
                err_msg=name,
            )
        elif expected is not None and name not in ("logits", "soft", "total"):
            if name == "row_max":  # NumPy's is NaN where there is one
                expected = np.where(np.isnan(truth["row_sum"]), values, expected)
            # of numbers up to 16 times the mass that cancel: T * log s, and t * (z - m)
            np.testing.assert_allclose(
                values, expected, rtol=16 * epsilon, atol=16 * epsilon * mass, err_msg=name
            )
    if variant.task in ("loss", "grad"):
        np.testing.assert_allclose(
            found["total"], truth["loss"].sum(), rtol=16 * epsilon, atol=16 * epsilon * rows
        )
