"""The least memory that a call takes, as its own error tells it."""

import re

import pytest

import fastxent as fx


def least_budget(*arrays, **options):
    """Bytes for one row of logits."""
    with pytest.raises(fx.OptionError, match="at least") as raised:
        fx.linear_cross_entropy_and_grad(*arrays, **options, memory_budget=1)
    return int(re.search(r"at least (\d+) bytes", str(raised.value))[1])
