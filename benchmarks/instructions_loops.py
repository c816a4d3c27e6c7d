"""The innermost loops of disassembled functions, and which pass of the kernels each one is.

Reads what `objdump -d -C --no-show-raw-insn` prints and what Numba's `inspect_asm` gives: x86-64
in AT&T syntax. A loop is what a conditional branch backwards spans, if no other such span and no
return lie inside it: code that is seldom needed stands behind a function's end, and jumps back.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PASSES = ("max", "exp", "close")
VECTOR_BYTES = {"zmm": 64, "ymm": 32, "xmm": 16}
ITEM_BYTES = {"float32": 4, "float64": 8}

_FUNCTION = re.compile(r"(?:[0-9a-f]+ <(?P<dumped>.+)>|(?P<label>[\w.$]+)):\s*(?:#.*)?$")
_DUMPED = re.compile(r"\s+([0-9a-f]+):\s+(.+)")
_LOCAL = re.compile(r"(\.L\w+):")
_JUMP = re.compile(r"j(?!mp)\w+\s+(\.L\w+|[0-9a-f]+)\b")
_REGISTER = re.compile(r"%([xyz]mm)\d+")
_MEMORY = re.compile(r"\((%r\w+)[,)]")
# Half precision is stored by what converts it, or narrows its bits.
_STORE = re.compile(r"v?(?:mov(?:nt|[ua]p|dq)\w*|cvtps2ph\s+\$\w+,|pmovdw)\s*%[xyz]mm\d+,[^%]*\(")
_ARITHMETIC = re.compile(r"v?(?:fn?m|max|min|mul|add|sub|cmp)\w*?(p[sd])\b")
_SCALAR_OR_REPEATED = re.compile(r"\w+s[sd]\s|v?(?:p?broadcast|mov[sd]dup)|\{1to")
# A shift by 16 makes a float of a bfloat16, and no power of two.
_POWER, _MAXIMUM, _PRODUCT = (
    r"v?psll[dq](?!\s+\$(?:0x10|16),)|vscalef",
    r"v?maxp[sd]",
    r"v?mulp[sd]",
)
_FUSED = r"vfn?m(?:add|sub)"
# What only loops do that read or write half precision.
_HALVES = {
    "float16": re.compile(r"v?cvt(?:ps2ph|ph2ps)"),
    "bfloat16": re.compile(r"v?(?:pmovzxwd|pmovdw|cvtneps2bf16)"),
}
_SHUFFLE = re.compile(r"v?(?:perm|unpck|shuf|punpck|pshuf)")


@dataclass(frozen=True)
class Instruction:
    """One instruction, where it stands, and where it jumps to."""

    address: int
    text: str
    target: int | None = None


@dataclass
class Function:
    """A function's name and instructions."""

    name: str
    body: list[Instruction] = field(default_factory=list)

    @property
    def registers(self) -> str:
        """The widest vector registers in use, or none."""
        used = {kind for one in self.body for kind in _REGISTER.findall(one.text)}
        return max(used, key=VECTOR_BYTES.__getitem__, default="")

    @property
    def frame(self) -> set[str]:
        """Registers whose memory is the stack, where numbers are spilled to."""
        holds_frame = any(re.match(r"movq?\s+%rsp,\s*%rbp", one.text) for one in self.body)
        return {"%rip", "%rsp"} | ({"%rbp"} if holds_frame else set())


@dataclass(frozen=True)
class Loop:
    """An innermost loop that is one of the passes."""

    function: str
    address: int
    dtype: str
    kind: str  # one of PASSES
    instructions: int
    elements: int  # an iteration takes
    streams: int  # arrays read: z or its exponentials, and those of the target
    half: str = ""  # the dtype that is read or written, if it is half precision

    @property
    def each(self) -> float:
        """Instructions an element."""
        return self.instructions / self.elements


def disassembled(library: Path) -> list[Function]:
    """Functions of a shared library or an object file."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions: list[Function] = []
    for line in listing.splitlines():
        if found := _DUMPED.match(line):
            address, text = int(found[1], 16), found[2].strip()
            jump = _JUMP.match(text)
            target = int(jump[1], 16) if jump else None
            functions[-1].body.append(Instruction(address, text, target))
        elif found := _FUNCTION.match(line):
            functions.append(Function(found["dumped"].replace("(anonymous namespace)::", "")))
    return functions


def assembled(text: str) -> list[Function]:
    """Functions of a compiler's assembler text; an address is a line's number."""
    lines = text.splitlines()
    labels = {found[1]: at for at, line in enumerate(lines) if (found := _LOCAL.match(line))}
    functions: list[Function] = []
    for at, line in enumerate(lines):
        stripped = line.split("#")[0].strip()
        if not line.startswith(("\t", " ", ".")) and (found := _FUNCTION.match(line)):
            functions.append(Function(found["label"] or ""))
        elif stripped and not stripped.startswith(".") and functions:
            jump = _JUMP.match(stripped)
            target = labels.get(jump[1]) if jump else None
            functions[-1].body.append(Instruction(at, stripped, target))
    return functions


def _spans(body: list[Instruction]) -> Iterator[list[Instruction]]:
    back = [
        (one.target, one.address)
        for one in body
        if one.target is not None and body[0].address <= one.target <= one.address
    ]
    for first, last in set(back):
        inside = sum(first <= begin and end <= last for begin, end in back)
        span = [one for one in body if first <= one.address <= last]
        if inside == 1 and not any(one.text.startswith("ret") for one in span):
            yield span


def _vectors(texts: Iterable[str], name: str) -> int:
    """Bytes of the vectors that these operations work on."""
    return sum(
        VECTOR_BYTES[found[-1]]
        for text in texts
        if re.match(name, text) and (found := _REGISTER.findall(text))
    )


def _loop(function: Function, body: list[Instruction], frame: set[str]) -> Loop | None:
    texts = [one.text for one in body]
    arithmetic = [found[1] for text in texts if (found := _ARITHMETIC.match(text))]
    on_data = [text for text in texts if (at := _MEMORY.search(text)) and at[1] not in frame]
    stores = any(_STORE.match(text) for text in on_data)
    loaded = _vectors(
        (t for t in on_data if not _STORE.match(t) and not _SCALAR_OR_REPEATED.search(t)), ""
    )
    if not arithmetic or not loaded or any(_SHUFFLE.match(text) for text in texts):
        return None
    # rows of one block have a loop of their own, which fetches the next rows' lines besides: two or
    # three instructions more for 64 bytes
    if any(text.startswith("prefetch") for text in texts):
        return None
    # One operation of a pass says how many elements an iteration takes: loads and stores do not
    # where a compiler copies vectors through memory.
    powers, maxima, products = (_vectors(texts, name) for name in (_POWER, _MAXIMUM, _PRODUCT))
    fused = _vectors(texts, _FUSED)
    if stores and powers and fused >= 6 * powers:
        kind, taken = "exp", powers
    elif stores and products and fused <= 2 * products and not powers:
        kind, taken = "close", products
    elif maxima and not (fused or products or powers):
        kind, taken = "max", maxima
    else:
        return None
    dtype = "float32" if arithmetic[0] == "ps" else "float64"
    elements = taken // ITEM_BYTES[dtype]
    streams = round(loaded / taken)
    half = next((name for name, pattern in _HALVES.items() if any(map(pattern.match, texts))), "")
    return Loop(function.name, body[0].address, dtype, kind, len(body), elements, streams, half)


def loops(function: Function) -> Iterator[Loop]:
    """Loops of a function that are passes over vectors, as they stand."""
    if not function.registers:
        return
    frame = function.frame
    for body in sorted(_spans(function.body), key=lambda span: span[0].address):
        found = _loop(function, body, frame)
        if found is not None:
            yield found
