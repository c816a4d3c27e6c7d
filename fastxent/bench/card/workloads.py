"""What is measured on a card, and what is asked for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ASKED_OF_PEERS", "LATENCY_SHAPE", "REHEARSAL", "WORKLOADS", "CardWorkload"]

# Logits and gradient together; a card's second-level cache of 60 MB flatters anything small.
WORKING_SET = 2 << 30

ITEMSIZE = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class CardWorkload:
    """Loss and gradient of so many rows, class indices in int64.

    Attributes
    ----------
    asked : float or None
        Least share of the bandwidth of a device copy.
    """

    rows: int
    classes: int
    dtype: str
    asked: float | None = None

    @property
    def counted_bytes(self) -> int:
        """Bytes that have to move: logits read once, gradient written once, labels read once."""
        return self.rows * (2 * self.classes * ITEMSIZE[self.dtype] + 8)

    @property
    def title(self) -> str:
        """Name in tables."""
        return f"{self.rows:,} x {self.classes:,} {self.dtype}"

    @property
    def is_aligned(self) -> bool:
        """Whether every row begins at a multiple of 16 bytes."""
        return self.classes * ITEMSIZE[self.dtype] % 16 == 0


# What matters most comes first, should the time run out.
_ASKED = {
    # classes: share asked in bfloat16, in float32
    128256: (0.92, 0.92),
    32000: (0.92, 0.92),
    50257: (0.85, 0.85),
    1000: (0.88, 0.88),
    262144: (0.90, 0.85),
    10: (0.70, 0.80),
}


def _of_size(classes: int, dtype: str, asked: float) -> CardWorkload:
    rows = -(-WORKING_SET // (2 * classes * ITEMSIZE[dtype]))
    return CardWorkload(rows, classes, dtype, asked)


WORKLOADS = tuple(
    _of_size(classes, dtype, asked)
    for classes, shares in _ASKED.items()
    for dtype, asked in zip(ITEMSIZE, shares, strict=True)
)

# Does everything run? Without a card, too.
REHEARSAL = (CardWorkload(64, 10, "float32"), CardWorkload(4, 1001, "bfloat16"))

# Whole forward and backward, at 1,000 classes and more: least ratio of a peer's time to ours, where
# rows are aligned and where they are not.
ASKED_OF_PEERS = {
    "Liger": (1.5, 1.5),
    "torch.compile": (1.4, 1.4),
    "PyTorch eager": (3.0, 3.0),
    "QuACK": (1.0, 1.5),
}

# A call whose time is that of the host.
LATENCY_SHAPE = (128, 1000)
