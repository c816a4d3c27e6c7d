"""The table of cases that the tests and ``fastxent check`` share.

A `Case` is a recipe in the words of the public arguments; `Case.arguments` bakes it. The same
case always gives the same arrays: its text is its seed.
"""

from fastxent.cases.recipe import AUX, BLOCK, HESS_RULES, Case, dtype_of
from fastxent.cases.table import CASES, OPTION_CASES, OPTIONS, cases_of

__all__ = [
    "AUX",
    "BLOCK",
    "CASES",
    "HESS_RULES",
    "OPTIONS",
    "OPTION_CASES",
    "Case",
    "cases_of",
    "dtype_of",
]
