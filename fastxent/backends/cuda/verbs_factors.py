"""The verbs before and after the pass over rows: labels, factors, sums, and scaling a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import LABEL_CHUNK
from fastxent.backends.cuda.arguments import address_of, skip_arguments
from fastxent.backends.cuda.layouts import element_table, is_same_piece
from fastxent.backends.cuda.runtime import Runtime
from fastxent.backends.cuda.specs import (
    ELEMENTS_A_THREAD,
    SCALED_VECTORS_A_THREAD,
    ClassFactorsVariant,
    KernelSpec,
    LabelsVariant,
    LoopGeometry,
    RowFactorsVariant,
    ScalingVariant,
    SumsVariant,
)
from fastxent.device_array import DeviceArray
from fastxent.precision import kind_of, native

__all__ = [
    "class_factors",
    "finish_sum",
    "first_bad_label",
    "label_mass",
    "row_factors",
    "scale",
]

_FLOAT64, _INT64 = np.dtype(np.float64), np.dtype(np.int64)

# Threads of a block that does all of the work, and of one among many.
_ALONE, _MANY = LoopGeometry(1024), LoopGeometry(256)
_VECTOR = 16


def _kind(array: DeviceArray | None) -> str:
    """Kind of the numbers of an array, "" if there is none."""
    if array is None:
        return ""
    return kind_of(array.dtype) or native(array.dtype).name


def _ceil(number: int, of: int) -> int:
    return -(-number // of)


def _labels(
    runtime: Runtime,
    target: DeviceArray,
    num_classes: int,
    skip: int | None,
    class_mass: DeviceArray | None,
    row_mass: DeviceArray | None,
    mass: DeviceArray | None,
    bad_row: DeviceArray,
) -> None:
    """Launch the pass over the labels, and the one over what its blocks found."""
    place, chunks = target.place, _ceil(target.size, LABEL_CHUNK)
    variant = LabelsVariant("chunks", _kind(target), _kind(class_mass), _kind(row_mass))
    given: dict[str, Any] = {
        "labels": target.address,
        **skip_arguments(skip),
        "class_mass": address_of(class_mass),
        "row_mass": address_of(row_mass),
        "rows": target.size,
        "classes": num_classes,
        "partials": chunks,
    }
    results = {"mass": mass, "live": None, "bad_row": bad_row}
    if chunks == 1:
        for name, array in results.items():
            given[f"{name.removesuffix('_row')}_partial"] = address_of(array)
        runtime.launch(KernelSpec("labels", variant, _MANY), 1, place, given)
        return
    partial = {
        "mass_partial": place.scratch((max(chunks, 1),), _FLOAT64),
        "live_partial": place.scratch((max(chunks, 1),), _INT64),
        "bad_partial": place.scratch((max(chunks, 1),), _INT64),
    }
    given |= {name: array.address for name, array in partial.items()}
    runtime.launch(KernelSpec("labels", variant, _MANY), chunks, place, given)
    given |= {name: address_of(array) for name, array in results.items()}
    finish = KernelSpec("labels", LabelsVariant("finish"), _MANY)
    runtime.launch(finish, 1, place, given)


def label_mass(
    runtime: Runtime,
    target: DeviceArray,
    num_classes: int,
    skip: int | None,
    class_mass: DeviceArray | None,
    row_mass: DeviceArray | None,
    mass: DeviceArray,
    bad_row: DeviceArray,
) -> None:
    """Write the mass of the labels to `mass`, and the first row with a bad one to `bad_row`."""
    _labels(runtime, target, num_classes, skip, class_mass, row_mass, mass, bad_row)


def first_bad_label(
    runtime: Runtime, target: DeviceArray, num_classes: int, skip: int | None
) -> int:
    """First row with a bad label, -1 if there is none; this waits for the GPU."""
    place = target.place
    runtime.check_may_wait(place)
    bad_row = runtime.place(place.device, place.stream).scratch((1,), _INT64)
    _labels(runtime, target, num_classes, skip, None, None, None, bad_row)
    return int(runtime.download(bad_row)[0])


def class_factors(
    runtime: Runtime,
    weight: DeviceArray,
    on_label: float,
    share: float,
    spike_of: DeviceArray | None,
    background_of: DeviceArray | None,
    background_total: DeviceArray | None,
    gain_of: DeviceArray | None,
) -> None:
    """Write the factors of classes that are not None."""
    rounded = next((array for array in (background_of, gain_of) if array is not None), None)
    compute = "float32" if rounded is None else rounded.dtype.name
    given = {
        "weight": weight.address,
        "spike_of": address_of(spike_of),
        "background_of": address_of(background_of),
        "background_total": address_of(background_total),
        "gain_of": address_of(gain_of),
        "classes": weight.size,
        "on_label": on_label,
        "share": share,
    }
    spec = KernelSpec("class_factors", ClassFactorsVariant(_kind(weight), compute), _ALONE)
    runtime.launch(spec, 1, weight.place, given)


def row_factors(
    runtime: Runtime, factors: tuple[DeviceArray | float, ...], row_scale: DeviceArray
) -> None:
    """Write the product of the factors of each row."""
    kinds = []
    given: dict[str, Any] = {"row_scale": row_scale.address, "rows": row_scale.size}
    missing = (1.0,) * (3 - len(factors))
    for name, factor in zip(("first", "second", "third"), (*factors, *missing), strict=True):
        if isinstance(factor, DeviceArray):
            kinds.append(_kind(factor))
            given[name] = factor.address
            for_all = factor.size == 1
            given[f"{name}_stride"] = 0 if for_all else factor.strides[0] // factor.itemsize
        else:
            kinds.append("")
            given[f"{name}_number"] = factor
    spec = KernelSpec("row_factors", RowFactorsVariant(*kinds), _MANY)
    grid = _ceil(row_scale.size, _MANY.threads * ELEMENTS_A_THREAD)
    runtime.launch(spec, grid, row_scale.place, given)


def finish_sum(
    runtime: Runtime,
    partial: DeviceArray,
    divisor: float,
    denominator: DeviceArray | None,
    zero_when_empty: bool,
    bad_row: DeviceArray | None,
    loss: DeviceArray,
) -> None:
    """Write the sum, divided."""
    given = {
        "partial": partial.address,
        "count": partial.size,
        "denominator": address_of(denominator),
        "zero_when_empty": int(zero_when_empty),
        "bad_row": address_of(bad_row),
        "total": loss.address,
        "divisor": divisor,
    }
    spec = KernelSpec("sums", SumsVariant(loss.dtype.name), _ALONE)
    runtime.launch(spec, 1, partial.place, given)


def scale(
    runtime: Runtime, grad: DeviceArray, kind: str, upstream: DeviceArray, out: DeviceArray
) -> None:
    """Write the rows of `grad`, times `upstream`, to those of `out`."""
    *leading, classes = grad.shape
    a_row = upstream.size > 1
    given: dict[str, Any] = {
        "source": grad.address,
        "out": out.address,
        "upstream": upstream.address,
        "upstream_stride": upstream.strides[0] // upstream.itemsize if a_row else 0,
        "elements": grad.size,
        "classes": classes,
    }
    form, geometry = "strided", _MANY
    if not a_row and is_same_piece((grad, out)):
        form = "number"
        geometry = _MANY._replace(aligned=(grad.address | out.address) % _VECTOR == 0)
        grid = _ceil(grad.nbytes, geometry.threads * SCALED_VECTORS_A_THREAD * _VECTOR)
    else:
        grid = _ceil(grad.size, geometry.threads * ELEMENTS_A_THREAD)
        if grad.is_dense and out.is_dense:
            form = "rows"
    if form == "strided":
        rows = upstream.reshape(*leading, 1) if a_row else upstream
        strides = rows.strides[:-1] if a_row else (0,) * len(leading)
        factor = DeviceArray(
            upstream.address, grad.shape, upstream.dtype, upstream.place, None, (*strides, 0)
        )
        given["dims"] = grad.ndim
        given["layout"] = runtime.table(element_table((grad, out, factor), grad.shape), grad.place)
    spec = KernelSpec("scaling", ScalingVariant(kind, _kind(upstream), form), geometry)
    runtime.launch(spec, grid, grad.place, given)
