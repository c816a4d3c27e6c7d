"""What a cubin holds: registers, memory and instructions, by NVIDIA's tools; no GPU is needed."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["Disassembly", "disassemble", "tool"]


class Disassembly(NamedTuple):
    """A kernel's machine code.

    Attributes
    ----------
    registers : int
        A thread; 255 at most.
    stack, local : int
        Bytes a thread; registers that spill lie on the stack.
    shared : int
        Bytes a block, with those that the GPU keeps for itself: 1,024 at 9.0 and 10.0, none at 7.5
        and 8.0.
    instructions : tuple of str
        In the order of the code, with modifiers and without operands: ``LDG.E.NA.128``.
    """

    registers: int
    stack: int
    local: int
    shared: int
    instructions: tuple[str, ...]

    def count(self, name: str, *modifiers: str) -> int:
        """How many instructions have this name and all of these modifiers."""
        return sum(_is(instruction, name, modifiers) for instruction in self.instructions)

    def before(self, name: str, *modifiers: str) -> Disassembly:
        """The part before the first of these instructions; all of it where there is none."""
        found = (_is(instruction, name, modifiers) for instruction in self.instructions)
        end = next((at for at, here in enumerate(found) if here), len(self.instructions))
        return self._replace(instructions=self.instructions[:end])

    @property
    def spills(self) -> int:
        """Loads from and stores to local memory, and the stack."""
        return self.count("LDL") + self.count("STL") + self.stack + self.local


def _is(instruction: str, name: str, modifiers: tuple[str, ...]) -> bool:
    first, *rest = instruction.split(".")
    return first == name and set(modifiers) <= set(rest)


@functools.cache
def tool(name: str) -> str | None:
    """Path of a tool in its wheel, or of that on PATH; None where it is not installed."""
    try:
        files = importlib.metadata.files(f"nvidia-cuda-{name}") or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    here = (str(file.locate()) for file in files if Path(file).stem == name)
    return next(here, None) or shutil.which(name)


def _output(name: str, *arguments: str | Path) -> str:
    command = [tool(name) or name, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def disassemble(code: bytes) -> Disassembly:
    """Give the `Disassembly` of a cubin with one kernel."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "kernel.cubin"
        file.write_bytes(code)
        usage = _output("cuobjdump", "--dump-resource-usage", file)
        listing = _output("nvdisasm", "--print-code", file)
    # beside the kernel: divisions of extreme numbers; before capability 9.0 some that nobody calls
    functions = re.findall(r"^ Function (\S+):\n +(.*)$", usage, re.MULTILINE)
    ((name, line),) = [found for found in functions if not found[0].startswith("__cuda_")]
    resources = dict(re.findall(r"(\w+)(?:\[\d\])?:(\d+)", line))
    body = listing.split(f"\n.text.{name}:\n")[1].split("\n//-----")[0]
    instructions = re.findall(
        r"^ +/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*)", body, re.MULTILINE
    )
    registers, stack, local, shared = (
        int(resources[key]) for key in ("REG", "STACK", "LOCAL", "SHARED")
    )
    return Disassembly(registers, stack, local, shared, tuple(instructions))
