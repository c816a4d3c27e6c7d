"""What the simulated GPU raises."""

__all__ = ["Fault"]


class Fault(Exception):
    """What a GPU, or a tool that watches it, would have stopped at, or worse: would not have."""
