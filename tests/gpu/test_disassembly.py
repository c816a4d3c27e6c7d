"""The table of docs/cuda.md: what serves which rows, as it is compiled."""

import subprocess
import sys
from pathlib import Path

import pytest

from gpu.disassembly import disassembled

ROOT = Path(__file__).parent.parent.parent
if not (ROOT / "benchmarks" / "cubins.py").exists():
    pytest.skip("benchmarks/ is not beside tests/: not a source tree", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))
import cubins as table  # noqa: E402

sys.path.pop(0)


@pytest.mark.parametrize("classes", table.CLASSES)
def test_the_page_says_what_serves_a_row(classes):
    """In the page's words, whatever the compilers make of it."""
    page = (ROOT / "docs" / "cuda.md").read_text()
    for kind in table.SIZES:
        assert f"| {classes:,} {kind} | {table.shape(table.served(classes, kind))} |" in page


def test_a_line_holds_what_was_found():
    found = disassembled(table.served(10, "float32"), table.CAPABILITY)
    cells = table.line(10, "float32", found, 1.25)
    assert cells[:2] == ["10 float32", "a tile of 256 rows"]
    assert cells[2:] == [str(found.registers), "0", "3", "3", str(found.count("BAR")), "1.2"]


def test_help():
    command = [sys.executable, ROOT / "benchmarks" / "cubins.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "--check" in done.stdout
