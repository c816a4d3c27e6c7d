"""Draw traffic.svg beside this file: passes over memory for loss and gradient."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

# `textbook_loss` of fastxent/demo.py. New arrays: z - max, and p, which becomes the gradient.
NUMPY = (
    ("max", "r"),  # z.max(axis=1): reads z
    ("subtract", "rw"),  # z - max: reads z, writes a new array
    ("exp", "rw"),  # np.exp(...): reads it, writes p
    ("sum", "r"),  # p.sum(axis=1): reads p
    ("divide", "rw"),  # p /= sum: reads and writes p
    # -log(p[label]).mean(), and p[label] -= 1, which is p - Y: N numbers, not N x C
    ("divide by N", "rw"),  # p /= N: reads and writes p
)
# F.cross_entropy and backward: SoftMaxKernel.cpp and LossNLL.cpp of PyTorch's aten/src/ATen/native.
# New arrays: log p, the gradient by log p, the gradient.
PYTORCH = (
    ("log_softmax", "rw"),  # reads z and writes log p, row by row; nll_loss reads N numbers of it
    ("nll_loss\nbackward", "w"),  # writes zeros everywhere, then -1/N at N labels
    ("log_softmax\nbackward", "rrw"),  # reads those and log p, writes the gradient
)
# Reads z block by block; the block's exps and the row they add up to stay in cache until the
# gradient is finished (row.hpp); a row of 32,000 float32 is 128 KB. New array: the gradient.
IN_CACHE = ("Block of 1,024 classes, in L1", ("max", "exp", "sum")), ("Row, in L2", ("scale",))

# What a write makes the processor read first is left out, for all three alike.
PASS = {"r": ("read", "#2563a8"), "w": ("write", "#c8560f")}
INK, QUIET, EDGE, OURS, STEP = "#1c2733", "#55626f", "#d0d7de", "#eef4fb", "#dfe6ee"
TILE, HEIGHT, LEFT, RIGHT = 46, 40, 142, 774  # pixels


def box(axes, x, y, width, height, color, edge="none", radius=5):
    """Draw a rounded rectangle with (x, y) at its top left."""
    style = {"boxstyle": f"round,pad=0,rounding_size={radius}", "fc": color, "ec": edge}
    axes.add_patch(FancyBboxPatch((x, y), width, height, **style))


def write(axes, x, y, text, size=9.5, color=INK, **more):
    """Put lines of text around x, the first one on y."""
    style = {"ha": "center", "va": "baseline", "size": size, "color": color, **more}
    for number, line in enumerate(text.split("\n")):
        axes.text(x, y + 14.5 * number, line, **style)


def tile(axes, x, y, text, color, ink="white"):
    """Draw one pass over an array, or one step in cache."""
    box(axes, x, y, TILE - 3, HEIGHT, color)
    write(axes, x + (TILE - 3) / 2, y + 24, text, 10, ink, weight="bold")


def ends(axes, y, name, detail, passes):
    """Name a way at the left edge, and count its passes at the right."""
    write(axes, 26, y + 10, name, 12.5, ha="left", weight="bold")
    write(axes, 26, y + 28, detail, color=QUIET, ha="left")
    for at, (kind, (word, color)) in zip((16, 37), PASS.items(), strict=True):
        text = f"{passes.count(kind)} {word}" + "s" * (passes.count(kind) > 1)
        write(axes, RIGHT, y + at, text, 12.5, color, ha="right", weight="bold")


def lane(axes, y, name, detail, steps):
    """Draw the steps of one way in a row, with their names below."""
    ends(axes, y, name, detail, "".join(passes for _, passes in steps))
    x = LEFT
    for step, passes in steps:
        for place, kind in enumerate(passes):
            tile(axes, x + place * TILE, y, *PASS[kind])
        width = len(passes) * TILE - 3
        write(axes, x + width / 2, y + HEIGHT + 17, step, color=QUIET)
        x += width + 12


def cached(axes, x, y, label, steps):
    """Draw steps that leave memory alone; give the x where their frame ends."""
    width = max(len(steps) * TILE + 13, 7 * len(label) + 4)
    box(axes, x, y - 10, width, HEIGHT + 36, "white", EDGE, 8)
    start = x + (width - len(steps) * TILE + 3) / 2
    for place, step in enumerate(steps):
        tile(axes, start + place * TILE, y, step, STEP, INK)
    write(axes, x + width / 2, y + HEIGHT + 18, label, color=QUIET)
    return x + width


def arrow(axes, x, y):
    """Point from x to the next box, and give the x where that begins."""
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": QUIET, "lw": 1.5}
    axes.add_patch(FancyArrowPatch((x, y + HEIGHT / 2), (x + 30, y + HEIGHT / 2), **style))
    return x + 30


def draw():
    """Draw the panel; its axes count pixels from the top left."""
    width, height = 800, 388
    figure = Figure((width / 96, height / 96), facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    box(axes, 1, 1, width - 2, height - 2, "white", EDGE, 12)
    write(axes, 26, 38, "Loss and gradient: passes over memory", 15, ha="left", weight="bold")
    key = "A box reads or writes all N \u00d7 C numbers of an array that is larger than the caches."
    write(axes, 26, 61, key, 10.5, QUIET, ha="left")
    lane(axes, 86, "NumPy", "textbook\n2 new arrays", NUMPY)
    lane(axes, 172, "PyTorch", "eager, CPU\n3 new arrays", PYTORCH)
    y, end = 290, LEFT + TILE - 3
    box(axes, 12, y - 24, width - 24, 110, OURS, radius=10)
    ends(axes, y, "fastxent", "1 new array,\n0 in place", "rw")
    tile(axes, LEFT, y, *PASS["r"])
    for label, steps in IN_CACHE:
        end = cached(axes, arrow(axes, end, y), y, label, steps)
    tile(axes, arrow(axes, end, y), y, *PASS["w"])
    return figure


if __name__ == "__main__":
    mpl.rcdefaults()
    mpl.rcParams["svg.hashsalt"] = "fastxent"
    draw().savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
