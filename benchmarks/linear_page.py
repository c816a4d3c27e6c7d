"""Tables of docs/linear.md and of the README, from the results of benchmarks/linear_layer.py."""

from __future__ import annotations

from typing import Any

from fastxent.bench.tables import table

__all__ = ["section", "summary_table"]

# Which calls the README shows beside which.
OURS = {"three products": "fastxent", "PyTorch": "fastxent.torch", "JAX": "fastxent.jax"}


def _spread(found: dict[str, float]) -> str:
    return f"{found['ratio']:.2f} ({found['least']:.2f} to {found['most']:.2f})"


def _times(found: dict[str, float]) -> str:
    return f"{found['times']:.2f}" if "times" in found else ""


def section(results: dict[str, Any]) -> str:
    """Write what stands between the markers of docs/linear.md."""
    parts = [
        "Loss and gradients of hidden vectors and weights, class indices, float32, N x D x C."
        " Calls take turns; of the ratios to the first of each group the median, least and most of"
        f" {results['rounds']} rounds. *times*: how many times as long as ours a call takes,"
        " the median of the rounds."
    ]
    lines = [
        [group if not at else "", name, f"{found['seconds']:.2f}", _spread(found), _times(found)]
        for group, calls in results["times"].items()
        for at, (name, found) in enumerate(calls.items())
    ]
    parts.append(table(["", "call", "seconds", "ratio", "times"], lines))
    if results.get("filter"):
        found = results["filter"]
        parts.append(
            "The filtered gradient of the weights is off by at most"
            f" {found['largest difference in dW']:.2g}; its bound is {found['its bound']:.2g}."
        )
    if results.get("memory"):
        parts.append(
            "What the largest resident size of a process grows by in a call, beyond arguments and"
            " gradients. The call before it has loaded what is loaded once; BLAS's own memory for"
            " packing is among that, 20 to 30 MB that any product of such matrices takes:"
        )
        lines = [
            [shape, f"{budget / 1e6:.0f} MB", f"{found / 1e6:.1f} MB"]
            for shape, budget, found in results["memory"]
        ]
        parts.append(table(["N x D x C", "`memory_budget`", "growth"], lines))
    if results.get("errors"):
        parts.append(
            "Root mean square of the error against float64, over that of the same computation in"
            " float32 with the logits whole:"
        )
        lines = [
            [shape if not at else "", name, f"{found:.2f}"]
            for shape, errors in results["errors"].items()
            for at, (name, found) in enumerate(errors.items())
        ]
        parts.append(table(["N x D x C", "of", "ratio"], lines))
    parts.append(results["machine"] + ".")
    return "\n\n".join(parts)


def summary_table(results: dict[str, Any]) -> str:
    """Write what stands between the markers of the README."""
    lines = []
    for group, calls in results["times"].items():
        base = next(iter(calls))
        if base not in OURS:
            continue
        ours = calls[OURS[base]]
        others = [
            f"{name} {found['seconds']:.2f} s ({_times(found)} times)"
            for name, found in calls.items()
            if name != OURS[base]
        ]
        shape = group.rpartition(", ")[2]
        lines.append([f"{OURS[base]}, {shape}", f"{ours['seconds']:.2f}", "; ".join(others)])
    text = table(
        ["loss and gradients, float32, N x D x C", "s", "beside it, in the same rounds"], lines
    )
    return f"{text}\n\n[How it was measured, memory and accuracy](docs/linear.md#measured)."
