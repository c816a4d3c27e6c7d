"""The loss behind a linear layer: time beside its products, memory, accuracy, one run for all.

usage: python benchmarks/linear_layer.py [--rounds N] [--scale S] [--parts NAME ...] [--page-only]

Before a comparison is timed, the results of its calls are compared. All calls of it take turns in
every round, and ratios are medians over the rounds of what was measured side by side. `--scale`
divides the sizes, to see that it works: then nothing is written. Otherwise writes
benchmarks/results/linear.json and what docs/linear.md and the README say of it; `--parts` measures
some parts anew and leaves the results of the others as they are; `--page-only` makes the pages from
the results of the last run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import linear_page
import numpy as np
from rich.console import Console
from rich.progress import Progress

import fastxent as fx
from fastxent import reference
from fastxent.bench.machine import facts, summary
from fastxent.bench.markdown import replaced

ROOT = Path(__file__).parent.parent
JSON = Path(__file__).parent / "results" / "linear.json"
SHAPES = {"4096 x 512 x 32000": (4096, 512, 32000), "1024 x 1024 x 128256": (1024, 1024, 128256)}
# The first is about one row: that of the largest shape, and the blocks of classes beside it.
BUDGETS = (2e6, 8e6, 16e6, 64e6, 256e6)
FILTER = 1e-5
HOT_CLASSES = 100
PARTS = ("products", "torch", "jax", "filter", "memory", "errors")
# Packages without which a part is skipped.
PACKAGES = {"torch": "torch", "jax": "jax"}
# Of results in float32: both are sums of up to 128,256 numbers.
TOLERANCE = 1e-4

Calls = dict[str, Callable[[], Any]]


def arrays(rows: int, features: int, classes: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Hidden vectors, weights and labels, float32; logits of about unit size."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((rows, features), np.float32)
    weights = rng.standard_normal((classes, features), np.float32) / np.float32(features**0.5)
    return hidden, weights, rng.integers(0, classes, rows)


def rounds_of(calls: Calls, rounds: int, progress: Progress, title: str) -> dict[str, list[float]]:
    """Seconds of every call in every round; one round before them does not count."""
    task = progress.add_task(title, total=(rounds + 1) * len(calls))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        # every second round backwards, so that nobody always follows the same one
        for name in list(calls) if number % 2 else reversed(list(calls)):
            start = time.perf_counter()
            calls[name]()
            if number:
                times[name].append(time.perf_counter() - start)
            progress.advance(task)
    return times


def compare(calls: Calls) -> None:
    """Stop where the loss or a gradient of a call is not that of the first, but for rounding."""
    expected = None
    for name, call in calls.items():
        found = [np.asarray(one, np.float32).copy() for one in call()]  # memory is used again
        if expected is None:
            expected = found
        for one, truth in zip(found, expected, strict=True):
            off = np.abs(one - truth).max() / np.abs(truth).max()
            if not off <= TOLERANCE:
                raise ValueError(
                    f"{name} is off by {off:.3g} of the largest, beside {next(iter(calls))}"
                )


def ratios(times: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median seconds of each call; of its ratios to `base` the median, least and most."""
    results = {}
    for name, found in times.items():
        beside = [a / b for a, b in zip(found, times[base], strict=True)]
        results[name] = {
            "seconds": statistics.median(found),
            "ratio": statistics.median(beside),
            "least": min(beside),
            "most": max(beside),
        }
    return results


def add_times(found: dict[str, dict[str, float]], times: dict[str, list[float]]) -> None:
    """Add how many times as long as ours the others take, the median of the rounds."""
    (ours,) = (name for name in found if name in linear_page.OURS.values())
    for name, others in times.items():
        beside = [a / b for a, b in zip(others, times[ours], strict=True)]
        found[name]["times"] = statistics.median(beside)


def numpy_calls(hidden: np.ndarray, weights: np.ndarray, target: np.ndarray) -> Calls:
    """The three products alone, whole, in memory that is there, and the call in its own."""
    logits = np.empty((len(hidden), len(weights)), np.float32)
    out = fx.LinearGrads(np.empty_like(hidden), np.empty_like(weights), None)

    def products() -> None:
        np.matmul(hidden, weights.T, out=logits)
        np.matmul(logits, weights, out=out.hidden)
        np.matmul(logits.T, hidden, out=out.linear_weight)

    def ours() -> tuple[Any, ...]:
        loss, grads = fx.linear_cross_entropy_and_grad(hidden, weights, target, out=out)
        return loss, *grads[:2]

    def whole() -> tuple[Any, ...]:
        np.matmul(hidden, weights.T, out=logits)
        loss, grad = fx.cross_entropy_and_grad(logits, target)
        return loss, grad @ weights, grad.T @ hidden

    # the products alone have no loss: the call is compared with the whole computation
    compare({"the whole logits": whole, "fastxent": ours})

    return {"three products": products, "fastxent": ours}


def torch_calls(hidden: np.ndarray, weights: np.ndarray, target: np.ndarray) -> Calls:
    """PyTorch's linear and cross_entropy, its chunked function, and ours."""
    import torch
    import torch.nn.functional as F

    ours = importlib.import_module("fastxent.torch").linear_cross_entropy
    x = torch.from_numpy(hidden).requires_grad_()
    w = torch.from_numpy(weights).requires_grad_()
    y = torch.from_numpy(target)

    def with_backward(loss: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> tuple[Any, ...]:
            x.grad = w.grad = None
            value = loss()
            value.backward()
            return value.detach(), x.grad, w.grad

        return call

    calls = {
        "PyTorch": with_backward(lambda: F.cross_entropy(F.linear(x, w), y)),
        "fastxent.torch": with_backward(lambda: ours(x, w, y)),
    }
    if hasattr(F, "linear_cross_entropy") and hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions()
        calls["PyTorch, chunked"] = with_backward(
            lambda: F.linear_cross_entropy(x, w, y, options=options)
        )
    compare(calls)
    return calls


def jax_calls(hidden: np.ndarray, weights: np.ndarray, target: np.ndarray) -> Calls:
    """JAX's own formula and ours, both compiled, with gradients of both arrays."""
    import jax
    import jax.numpy as jnp

    linear_cross_entropy = importlib.import_module("fastxent.jax").linear_cross_entropy
    given = jnp.asarray(hidden), jnp.asarray(weights), jnp.asarray(target, jnp.int32)

    def plain(x: Any, w: Any, y: Any) -> Any:
        log_p = jax.nn.log_softmax(x @ w.T)
        return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()

    def compiled(loss: Callable[..., Any]) -> Callable[[], Any]:
        both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

        def call() -> tuple[Any, ...]:
            value, grads = jax.block_until_ready(both(*given))
            return value, *grads

        return call

    calls = {"JAX": compiled(plain), "fastxent.jax": compiled(linear_cross_entropy)}
    compare(calls)
    return calls


def filter_calls(rows: int, features: int, classes: int) -> tuple[Calls, dict[str, Any]]:
    """The whole gradient and the filtered one of a model with 99.9 % of the mass on few classes."""
    hidden, weights, _ = arrays(rows, features, classes)
    hot = min(HOT_CLASSES, classes // 2)
    # exp(bias) of each hot class, so that together they have 999 times the mass of the others
    bias = np.zeros(classes, np.float32)
    bias[:hot] = np.log(999 * (classes - hot) / hot)
    target = np.random.default_rng(1).integers(0, hot, rows)
    given = {"linear_bias": bias}

    def call(eps: float | None) -> Callable[[], Any]:
        return lambda: fx.linear_cross_entropy_and_grad(
            hidden, weights, target, grad_filter=eps, **given
        )

    calls = {"all classes": call(None), f"grad_filter={FILTER:g}": call(FILTER)}
    exact, close = calls["all classes"]()[1], calls[f"grad_filter={FILTER:g}"]()[1]
    off = float(np.abs(close.linear_weight - exact.linear_weight).max())
    bound = FILTER * float(np.abs(hidden).mean(axis=0).max())
    if off > 1.001 * bound + 1e-7:
        raise ValueError(f"the filter is off by {off:.3g}, more than its bound {bound:.3g}")
    return calls, {"largest difference in dW": off, "its bound": bound}


def peak_beyond(budget: float, shape: tuple[int, int, int]) -> int:
    """Bytes that a process holds at most beyond inputs and gradients, as its kernel counts them."""
    command = [sys.executable, __file__, "--child", str(int(budget)), *map(str, shape)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(budget: int, *shape: int) -> None:
    """Print the growth of the largest resident size over a call; Linux."""

    def largest() -> int:
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    hidden, weights, target = arrays(*shape)
    out = fx.LinearGrads(np.zeros_like(hidden), np.zeros_like(weights), None)
    # what is loaded and taken once: BLAS keeps 20 to 30 MB for packing, in whatever product
    fx.linear_cross_entropy_and_grad(hidden, weights, target, out=out, memory_budget=budget)
    Path("/proc/self/clear_refs").write_text("5")  # the largest size is that of now
    before = largest()
    fx.linear_cross_entropy_and_grad(hidden, weights, target, out=out, memory_budget=budget)
    print(max(0, largest() - before))


def error_ratios(rows: int, features: int, classes: int) -> dict[str, float]:
    """Error against float64 over that of the whole computation in float32, root mean squares."""
    hidden, weights, target = arrays(rows, features, classes)
    each = {"reduction": "none", "grad_output": 1 / rows}
    true_loss, truth = reference.linear_cross_entropy_and_grad(hidden, weights, target, **each)
    loss, grads = fx.linear_cross_entropy_and_grad(hidden, weights, target, **each)
    z = hidden @ weights.T
    z -= z.max(axis=1, keepdims=True)
    grad = np.exp(z)
    total = grad.sum(axis=1, keepdims=True)
    plain_loss = np.log(total[:, 0]) - z[np.arange(rows), target]
    grad /= total
    grad[np.arange(rows), target] -= 1
    grad /= np.float32(rows)
    plain = {"hidden": grad @ weights, "linear_weight": grad.T @ hidden}

    def error(found: np.ndarray, true: np.ndarray) -> float:
        return float(np.sqrt(np.mean((found - true) ** 2)))

    found = {"loss of each row": error(loss, true_loss) / error(plain_loss, true_loss)}
    for name, values in plain.items():
        true = getattr(truth, name)
        found[name] = error(getattr(grads, name), true) / error(values, true)
    return found


def write_pages(results: dict[str, Any]) -> None:
    """Put the results into docs/linear.md and the README."""
    for page, text in (
        (ROOT / "docs" / "linear.md", linear_page.section(results)),
        (ROOT / "README.md", linear_page.summary_table(results)),
    ):
        page.write_text(replaced(page.read_text(), text, "linear"))


def has_package(part: str, console: Console) -> bool:
    """Whether a part has the package that it compares with; says so where not."""
    name = PACKAGES.get(part)
    if name is None or importlib.util.find_spec(name) is not None:
        return True
    console.print(f"{part} skipped: {name} is not installed")
    return False


def measured(
    parts: list[str], rounds: int, shapes: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Results of some parts."""
    results: dict[str, Any] = {"times": {}}

    def measure(title: str, calls: Calls, base: str, has_times: bool = True) -> None:
        times = rounds_of(calls, rounds, progress, title)
        results["times"][title] = found = ratios(times, base)
        if has_times:
            add_times(found, times)

    for name, shape in shapes.items():
        given = arrays(*shape)
        if "products" in parts:
            title = f"Beside the three products, {name}"
            measure(title, numpy_calls(*given), "three products")
        if "torch" in parts:
            measure(f"Beside PyTorch, {name}", torch_calls(*given), "PyTorch")
        if "jax" in parts:
            measure(f"Beside JAX, {name}", jax_calls(*given), "JAX")
    first = next(iter(shapes))
    if "filter" in parts:
        calls, results["filter"] = filter_calls(*shapes[first])
        title = f"99.9 % of the mass on {HOT_CLASSES} classes, {first}"
        measure(title, calls, "all classes", has_times=False)
    if "memory" in parts and Path("/proc/self/status").exists():
        task = progress.add_task("Memory", total=len(shapes) * len(BUDGETS))
        results["memory"] = []
        for name, shape in shapes.items():
            for budget in BUDGETS:
                results["memory"].append((name, budget, peak_beyond(budget, shape)))
                progress.advance(task)
    if "errors" in parts:
        results["errors"] = {}
        for name, (rows, features, classes) in shapes.items():
            fewer = max(8, rows // (4 if name == first else 16))
            title = f"{fewer} rows of {name}"
            results["errors"][title] = error_ratios(fewer, features, classes)
    return results


def merged(stored: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Stored results, with what was found anew in their place."""
    times = stored.get("times", {}) | found.get("times", {})
    return stored | found | {"times": times}


def main() -> None:
    """Measure everything, show it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    console = Console()
    if options.page_only:
        write_pages(json.loads(JSON.read_text()))
        return
    results: dict[str, Any] = {}
    if set(options.parts) != set(PARTS) and options.scale == 1 and JSON.exists():
        results = json.loads(JSON.read_text())
    results |= {"machine": summary(facts()), "rounds": options.rounds}
    shapes = {
        name: tuple(max(8, size // options.scale) for size in shape)
        for name, shape in SHAPES.items()
    }
    parts = [part for part in options.parts if has_package(part, console)]
    with Progress(console=console) as progress:
        results = merged(results, measured(parts, options.rounds, shapes, progress))
    console.print(linear_page.section(results), markup=False)
    if options.scale == 1:
        JSON.write_text(json.dumps(results, indent=1) + "\n")
        write_pages(results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*map(int, sys.argv[2:]))
    else:
        main()
