"""The GPU backend: kernels in Numba's CUDA target, launched through the driver.

Arrays of a GPU are used where they are, on the stream of their place, and nothing waits. NumPy
arrays are copied to the first device and their results back. Neither Numba nor a CUDA package is
imported before the backend is asked whether it can run.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import BinaryOutputs, LabelSummary, Outputs, PartialSums
from fastxent.backends.cuda import (
    verbs_binary,
    verbs_factors,
    verbs_jacobian,
    verbs_rows,
    verbs_shards,
)
from fastxent.backends.cuda.facts import facts
from fastxent.backends.cuda.recording import NotRecorded, Recorder
from fastxent.backends.cuda.residence import Residence
from fastxent.backends.cuda.runtime import Runtime
from fastxent.backends.label_summary import summary_of
from fastxent.device_array import DeviceArray
from fastxent.precision import HALF_KINDS, Array

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastxent.binary import BinaryProblem
    from fastxent.device_array import Place
    from fastxent.jacobian import JacobianProblem
    from fastxent.problem import Problem

__all__ = ["BACKEND", "CudaBackend"]

_FLOAT64 = np.dtype(np.float64)

# Of Problem, BinaryProblem and JacobianProblem: what may be an array that kernels read.
_OF_ROWS = ("logits", "target", "soft", "spike", "background", "gain", "row_scale")
_OF_ELEMENTS = ("logits", "target", "ones", "factor", "upstream")
_OF_PRODUCT = ("grad", "proba", "log_proba")
_OF_LABELS = ("target", "spike", "background_total", "row_weight_at")
_OF_SUMS = ("max", "sum", "mass", "dot", "spread", "argmax", "label_logit")


def _is_integer(problem: BinaryProblem) -> bool:
    """Whether targets could be something else than 0 and 1; the bits of half precision are not."""
    return problem.target.dtype.kind in "iu" and problem.target_kind not in HALF_KINDS


def _is_on_device(array: Any) -> bool:
    return isinstance(array, DeviceArray)


class CudaBackend:
    """See `fastxent.backends.contract.Backend` and `DeviceBackend`."""

    name = "cuda"

    def __init__(self) -> None:
        self._runtime: Runtime | None = None
        self._own = threading.local()

    @property
    def driver(self) -> Any:
        """What launches kernels and copies memory; tests put one here that simulates a GPU."""
        return self._here.driver

    @driver.setter
    def driver(self, driver: Any) -> None:
        self._runtime = None if driver is None else Runtime(driver)

    @property
    def _here(self) -> Any:
        """A `Runtime`, or what stands for it."""
        recorder = getattr(self._own, "recorder", None)
        return self._runtime_of_process() if recorder is None else recorder

    def _runtime_of_process(self) -> Runtime:
        if self._runtime is None:
            from fastxent.backends.cuda.driver import Driver

            self._runtime = Runtime(Driver())
        return self._runtime

    def why_not(self, problem: Problem | None = None) -> str | None:
        """A package, the driver or a device is missing; a device that can do one thing can all."""
        reason: str | None = self.driver.why_not()
        return reason

    def info(self) -> dict[str, str]:
        """Facts for a bug report."""
        return {} if self.why_not() is not None else facts(self.driver)

    def check_labels(
        self,
        target: Array,
        num_classes: int,
        skip: int | None,
        class_mass: Array | None,
        row_mass: Array | None,
        num_threads: int,
    ) -> LabelSummary:
        """Find the first bad label, count the live rows and add up their mass: on the host."""
        return summary_of(target, num_classes, skip, class_mass, row_mass)

    def forward(self, problem: Problem, out: Outputs) -> None:
        """Fill all outputs but `log_proba`, as far as they are not None."""
        if _is_on_device(problem.logits):
            verbs_rows.forward(self._here, problem, out)
            return
        copies = Residence(self._here)
        there = copies.take_fields(problem, *_OF_ROWS)
        there.out = None  # what is written there lies as the logits do
        results = copies.give_all(out)
        if out.total is not None:
            results.partial = copies.place.scratch((self.partial_count(there),), _FLOAT64)
        verbs_rows.forward(self._here, there, results)
        if out.total is not None and results.partial is not None:
            out.total[0] = copies.total(results.partial)
        copies.deliver()

    def backward(self, problem: Problem, row_max: Array, row_sum: Array, grad: Array) -> None:
        """Fill `grad` from the row statistics that `forward` gave, with the bits of its `grad`."""
        if _is_on_device(problem.logits):
            verbs_rows.backward(self._here, problem, row_max, row_sum, grad)
            return
        copies = Residence(self._here)
        there = copies.take_fields(problem, *_OF_ROWS)
        statistics = copies.take(row_max), copies.take(row_sum)
        verbs_rows.backward(self._here, there, *statistics, copies.give(grad))
        copies.deliver()

    def partial(self, problem: Problem, sums: PartialSums) -> None:
        """Fill what is not None with the sums of each block of classes, or of all in one part."""
        if _is_on_device(problem.logits):
            verbs_shards.partial(self._here, problem, sums)
            return
        copies = Residence(self._here)
        there = copies.take_fields(problem, *_OF_ROWS)
        verbs_shards.partial(self._here, there, copies.give_all(sums))
        copies.deliver()

    def merge(self, problem: Problem, sums: PartialSums, out: Outputs) -> None:
        """Fill outputs of rows from the sums of all classes, in class order."""
        if _is_on_device(sums.max):
            verbs_shards.merge(self._here, problem, sums, out)
            return
        copies = Residence(self._here)
        there = copies.take_fields(problem, *_OF_LABELS)
        results = copies.give_all(out)
        if out.total is not None:
            results.partial = copies.place.scratch((1,), _FLOAT64)
        verbs_shards.merge(self._here, there, copies.take_fields(sums, *_OF_SUMS), results)
        if out.total is not None and results.partial is not None:
            out.total[0] = copies.total(results.partial)
        copies.deliver()

    def partial_backward(
        self, problem: Problem, row_max: Array, row_sum: Array, row_mass: Array, grad: Array
    ) -> None:
        """Fill `grad`, rows like those of `problem`, from the statistics of all classes."""
        if _is_on_device(problem.logits):
            verbs_shards.partial_backward(self._here, problem, row_max, row_sum, row_mass, grad)
            return
        copies = Residence(self._here)
        there = copies.take_fields(problem, *_OF_ROWS)
        maxima, sums, masses = map(copies.take, (row_max, row_sum, row_mass))
        result = copies.give(grad)
        verbs_shards.partial_backward(self._here, there, maxima, sums, masses, result)
        copies.deliver()

    def softmax(self, problem: Problem, out: Outputs) -> None:
        """Fill `proba` or `log_proba`, and `row_max`, `row_sum`, as far as they are not None."""
        if _is_on_device(problem.logits):
            verbs_rows.softmax(self._here, problem, out)
            return
        copies = Residence(self._here)
        there = copies.take_fields(problem, "logits")
        verbs_rows.softmax(self._here, there, copies.give_all(out))
        copies.deliver()

    def mean_loss(
        self,
        logits: Array,
        target: Array,
        skip: int | None,
        grad: Array | None,
        num_threads: int,
    ) -> float | None:
        """No shorter way than `forward`."""
        return None

    def binary(self, problem: BinaryProblem, out: BinaryOutputs) -> bool:
        """Fill what is not None; whether an integer target is neither 0 nor 1."""
        is_integer = _is_integer(problem)
        if _is_on_device(problem.logits):
            verbs_binary.binary(self._here, problem, out, is_integer)
            return False
        if is_integer and bool(((problem.target != 0) & (problem.target != 1)).any()):
            return True
        if all(array is None for array in (out.loss, out.grad, out.proba, out.hess, out.total)):
            return False
        copies = Residence(self._here)
        there = copies.take_fields(problem, *_OF_ELEMENTS)
        results = copies.give_all(out)
        if out.total is not None:
            results.partial = copies.place.scratch((self.binary_partial_count(there),), _FLOAT64)
        verbs_binary.binary(self._here, there, results, is_integer)
        if out.total is not None and results.partial is not None:
            out.total[0] = copies.total(results.partial)
        copies.deliver()
        return False

    def softmax_backward(self, problem: JacobianProblem, out: Array) -> None:
        """Fill `out` with the Jacobian product."""
        if _is_on_device(problem.grad):
            verbs_jacobian.softmax_backward(self._here, problem, out)
            return
        copies = Residence(self._here)
        there = copies.take_fields(problem, *_OF_PRODUCT)
        verbs_jacobian.softmax_backward(self._here, there, copies.give(out))
        copies.deliver()

    def place(self, device: int, stream: int) -> Place:
        """Device and stream, with memory of the backend's own."""
        found: Place = self._here.place(device, stream)
        return found

    def check_not_captured(self, place: Place) -> None:
        """Refuse work whose memory is given back while a graph goes on using it."""
        self._runtime_of_process().check_not_captured(place)

    def upload(self, array: Array, place: Place, is_result: bool = False) -> DeviceArray:
        """Copy of a contiguous array of the host in new memory of the place."""
        there: DeviceArray = self._here.upload(array, place, is_result)
        return there

    def download(self, array: DeviceArray) -> Array:
        """Copy of a contiguous array, for the host. This waits for the GPU."""
        return self._runtime_of_process().download(array)

    def device_of(self, address: int) -> int:
        """Number of the device whose memory an address lies in."""
        device: int = self.driver.device_of(address)
        return device

    @property
    def plans(self) -> dict[Any, Any]:
        """What callers keep of `record`, for as long as it is good."""
        return self._runtime_of_process().plans

    def record(self, calls: Callable[[], None]) -> Callable[[Place, tuple[int, ...]], None] | None:
        """Let verbs note their launches, and launch nothing; give what launches them."""
        recorder = Recorder(self._runtime_of_process())
        self._own.recorder = recorder
        try:
            calls()
        except NotRecorded:
            return None
        finally:
            self._own.recorder = None
        return recorder.replay

    def wait(self, place: Place, stream: int) -> None:
        """Let what is launched on `place` from now on wait for what `stream` has to do now."""
        self.driver.wait(place.stream, stream, place.device)

    def partial_count(self, problem: Problem) -> int:
        """How many partial sums `forward` writes."""
        return verbs_rows.partial_count(self._here, problem)

    def binary_partial_count(self, problem: BinaryProblem) -> int:
        """How many partial sums `binary` writes."""
        return verbs_binary.partial_count(problem)

    def label_mass(
        self,
        target: DeviceArray,
        num_classes: int,
        skip: int | None,
        class_mass: DeviceArray | None,
        row_mass: DeviceArray | None,
        mass: DeviceArray,
        bad_row: DeviceArray,
    ) -> None:
        """Write `LabelSummary.mass` to `mass`, float64 of one entry; bad labels do not count."""
        verbs_factors.label_mass(
            self._here, target, num_classes, skip, class_mass, row_mass, mass, bad_row
        )

    def first_bad_label(self, target: DeviceArray, num_classes: int, skip: int | None) -> int:
        """`LabelSummary.bad_row`. This waits for the GPU."""
        return verbs_factors.first_bad_label(self._here, target, num_classes, skip)

    def class_factors(
        self,
        weight: DeviceArray,
        on_label: float,
        share: float,
        spike_of: DeviceArray | None,
        background_of: DeviceArray | None,
        background_total: DeviceArray | None,
        gain_of: DeviceArray | None,
    ) -> None:
        """Write what fastxent.mass computes on the host, with its bits."""
        verbs_factors.class_factors(
            self._here, weight, on_label, share, spike_of, background_of, background_total, gain_of
        )

    def row_factors(self, factors: tuple[DeviceArray | float, ...], row_scale: DeviceArray) -> None:
        """Write the product of up to three factors, numbers or (N,) real arrays of any kind."""
        verbs_factors.row_factors(self._here, factors, row_scale)

    def finish_sum(
        self,
        partial: DeviceArray,
        divisor: float,
        denominator: DeviceArray | None,
        zero_when_empty: bool,
        bad_row: DeviceArray | None,
        loss: DeviceArray,
    ) -> None:
        """Write sum(partial) / divisor / denominator to the one entry of `loss`, in its dtype."""
        verbs_factors.finish_sum(
            self._here, partial, divisor, denominator, zero_when_empty, bad_row, loss
        )

    def scale(self, grad: DeviceArray, kind: str, upstream: DeviceArray, out: DeviceArray) -> None:
        """Write the rows `grad` times `upstream`, one real number or one a row, to `out`."""
        verbs_factors.scale(self._here, grad, kind, upstream, out)


BACKEND = CudaBackend()
