"""The FASTXENT_* environment variables that choose code, read in one place."""

from __future__ import annotations

import os

from fastxent import checks

__all__ = ["INSTRUCTION_LEVELS", "instruction_level"]

INSTRUCTION_LEVELS = ("baseline", "v3", "v4")


def instruction_level() -> str | None:
    """FASTXENT_ISA: the highest x86-64 level that compiled kernels may use, None for any."""
    name = os.environ.get("FASTXENT_ISA", "").strip()
    return checks.check_choice(name, "FASTXENT_ISA", INSTRUCTION_LEVELS) if name else None
