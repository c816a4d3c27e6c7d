"""What crosses into the kernels: records of addresses, strides and counts, eight bytes a field.

A kernel gets the address of a Pass: one signature, whatever the arrays' layout, and a function that
others call takes one argument and not eighty. An address of 0 means absent. Strides count bytes.
The C++ twin is src_cython/kernels.hpp; fields.py reads records in compiled code.
"""

from __future__ import annotations

import struct
from typing import Any

__all__ = [
    "BINARY",
    "GROUP",
    "JACOBIAN",
    "LABEL_CHECK",
    "MATRIX",
    "MOST_LEVELS",
    "PASS",
    "SHARD",
    "SLOTS",
    "Record",
]


class Record:
    """A layout in memory.

    Parameters
    ----------
    name : str
    **fields
        "int" or "float" for a number, a pair of one of them and a count for an array of numbers, a
        Record for one inside this one.
    """

    def __init__(self, name: str, **fields: Any) -> None:
        self.name, self.fields = name, fields
        self.places: dict[str, int] = {}
        self.words = 0
        formats = "="
        for field, kind in fields.items():
            self.places[field] = self.words
            count: int = kind.words if isinstance(kind, Record) else 1
            code = f"{8 * count}s"
            if not isinstance(kind, Record):
                number, count = (kind, 1) if isinstance(kind, str) else kind
                code = f"{count}{'q' if number == 'int' else 'd'}"
            formats += code
            self.words += count
        self._packer = struct.Struct(formats)
        # what is not given is absent
        self._absent = {f: b"" if isinstance(k, Record) else 0 for f, k in fields.items()}

    def pack_into(self, memory: Any, place: int, numbers: dict[str, Any]) -> None:
        """Write a record whose fields are single numbers and packed records; 0 if not given."""
        self._packer.pack_into(memory, place, *(self._absent | numbers).values())

    def packed(self, *numbers: int) -> bytes:
        """The bytes of a record, from all of its numbers."""
        return self._packer.pack(*numbers)


# Dimensions through which rows are numbered, the first of which varies fastest.
MOST_LEVELS = 4

# Numbers of rows and classes, somewhere in memory; `kind` is a place in KINDS of the contract.
MATRIX = Record(
    "Matrix",
    data="int",  # of row 0 and class 0
    kind="int",
    levels="int",
    class_stride="int",
    size=("int", MOST_LEVELS),
    stride=("int", MOST_LEVELS),
)

# One pass over the rows: the verbs forward and softmax. The softmax is the gradient of rows whose
# whole mass is 1 and lies on no class. A step is 1 for an array and 0 for a constant; a constant of
# the compute dtype fills 64 bytes.
PASS = Record(
    "Pass",
    rows="int",
    classes="int",
    logits=MATRIX,
    labels="int",
    label_kind="int",  # bytes of one label, negative for unsigned ones
    has_skip="int",
    skip="int",  # its 64-bit pattern
    soft=MATRIX,
    spike="int",
    spike_step="int",
    row_scale="int",
    row_scale_step="int",
    background="int",
    background_step="int",
    gain="int",  # 0 means that probabilities are the masses, without background
    gain_step="int",
    background_total="float",  # the whole mass of a row without labels and probabilities
    # z = softcap * tanh(logit_scale * x / softcap), or logit_scale * x where softcap is 0
    logit_scale="float",
    softcap="float",
    z_loss="float",
    grad=MATRIX,
    proba=MATRIX,
    # max(hess_factor * row_scale * p * (1 - p), hess_floor), or |p - [label]| for p * (1 - p)
    hess=MATRIX,
    hess_is_distance="int",
    hess_factor="float",
    hess_floor="float",
    log_proba=MATRIX,
    target_grad=MATRIX,
    loss="int",
    row_max="int",
    row_sum="int",
    log_prob="int",
    entropy="int",
    argmax="int",
    # how the pass is cut up, and what is computed where it lies: see schedule.py
    columns="int",
    reads_directly="int",
    writes_directly="int",
    soft_directly="int",
    keeps_logits="int",
    run="int",
    chunk_rows="int",
    chunks="int",
    chunk_tiles="int",
    tiles_of_run="int",
    blocks="int",
    group_rows="int",
    pieces="int",
    block_bytes="int",
    buffer_bytes="int",
    scratch="int",  # sums of rows that are passed over in compiled code
    shared_rows="int",
    totals="int",  # of the chunks, where workers share a row
)

# One Jacobian product: the verb softmax_backward. Its arrays are of one kind.
JACOBIAN = Record(
    "Jacobian",
    rows="int",
    classes="int",
    first=MATRIX,
    grad=MATRIX,
    out=MATRIX,
    chunk_rows="int",
    chunks="int",
    blocks="int",
    pieces="int",
    scratch="int",
)

# A look at class indices: the verb check_labels.
LABEL_CHECK = Record(
    "LabelCheck",
    rows="int",
    classes="int",
    labels="int",
    label_kind="int",
    has_skip="int",
    skip="int",
    class_mass="int",
    row_mass="int",
    chunks="int",
    found="int",  # three numbers for each chunk: bad row, live rows, mass
)

# One pass of the binary loss. Strides lie at addresses, and count bytes; a factor whose address is
# 0 is the same number everywhere.
BINARY = Record(
    "Binary",
    dims="int",
    shape="int",
    elements="int",
    chunks="int",
    compute_kind="int",
    logits="int",
    logits_kind="int",
    logits_strides="int",
    target="int",
    target_kind="int",
    target_strides="int",
    ones="int",
    ones_strides="int",
    ones_constant="float",
    factor="int",
    factor_strides="int",
    factor_constant="float",
    upstream="int",
    upstream_strides="int",
    upstream_constant="float",
    gain="float",
    background="float",
    loss="int",
    loss_strides="int",
    grad="int",
    grad_strides="int",
    proba="int",
    proba_strides="int",
    hess="int",
    hess_strides="int",
    hess_is_distance="int",
    hess_factor="float",
    hess_floor="float",
    total="int",
    found="int",  # two numbers for each chunk: the sum of its losses, and whether a target is bad
)

# What a pass over some of the classes has besides: the verbs partial, merge and partial_backward.
# Sums lie part by part, the rows of each side by side.
SHARD = Record(
    "Shard",
    class_offset="int",  # of the first class that is here
    num_classes="int",  # here and elsewhere
    max="int",
    sum="int",
    mass="int",
    dot="int",
    spread="int",
    argmax="int",
    label_logit="int",
    row_max="int",  # of all classes, as float64
    row_sum="int",
    row_mass="int",  # T
)

SLOTS = 8  # lanes of doubles

_INTS, _FLOATS = ("int", SLOTS), ("float", SLOTS)

# Some rows of many classes on their way through the pass, each in a slot of these arrays.
GROUP = Record(
    "Group",
    row=_INTS,
    label=_INTS,
    argmax=_INTS,
    # addresses of what each row reads and writes: `z` where all of it is kept, or 0; its
    # exponentials, or 0 where nobody reads them
    logits=_INTS,
    grad=_INTS,
    z=_INTS,
    exps=_INTS,
    max=_FLOATS,
    sum=_FLOATS,
    mass=_FLOATS,
    dot=_FLOATS,
    spread=_FLOATS,
    spike=_FLOATS,
    scale=_FLOATS,
    at_label=_FLOATS,
    exp_at_label=_FLOATS,
    mass_at_label=_FLOATS,
    loss=_FLOATS,
    log_sum=_FLOATS,
    share=_FLOATS,
    grad_at_label=_FLOATS,
    log_prob=_FLOATS,
)
