"""The command `fastxent`: info, check, bench, demo.

Exit codes: 0, it is as it should be; 1, a check failed; 2, wrong usage or something is missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from fastxent import config, demo_report, selfcheck, selfcheck_thorough, threads
from fastxent.backends import pick
from fastxent.demo import EPOCHS
from fastxent.errors import FastxentError
from fastxent.version import __version__

__all__ = ["main"]

_EXAMPLES = """\
examples:
  fastxent info                  versions, CPU, backends, threads: for a bug report
  fastxent check                 are the results right on this machine?
  fastxent bench                 how fast, beside PyTorch, JAX and others?
  fastxent demo                  train a small network on handwritten digits
  fastxent demo --binary         the same with one sigmoid output, on tumours
"""

_INFO_EXAMPLES = """\
examples:
  fastxent info
  fastxent info --json | python -m json.tool
"""

_CHECK_EXAMPLES = """\
examples:
  fastxent check
  fastxent check --quick
  fastxent check --backend cython numpy --dtype float32
  fastxent check --thorough
  fastxent check --thorough 600

--thorough makes random calls of every function, held against the reference, and looks whether
the bits stay the same for any number of threads, any order of rows, on every way.
Numba compiles its kernels first, --quick or not: minutes, unless they are in its cache.
Exits with 1 if a case failed.
"""

_BENCH_EXAMPLES = """\
examples:
  fastxent bench
  fastxent bench --shape 512,50257 --dtype float64
  fastxent bench --shape 8192,1000 --labels soft --threads 1 --quick

Measures fastxent, whichever peers are installed, and what memory and arithmetic allow, turn and
turn about. Every result is checked before it is timed. Needs: pip install "fastxent[bench]".
Exits with 1 if a result is wrong.
"""

_DEMO_EXAMPLES = """\
examples:
  fastxent demo
  fastxent demo --binary
  fastxent demo --out /tmp/digits --backend numpy --no-speed

Needs: pip install "fastxent[demo]". Exits with 1 if the test accuracy stays below 97 % (with
--binary 95 %), or if the training differs from the same one by the textbook formulas.
"""


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _shape(text: str) -> tuple[int, int]:
    rows, classes = (_positive(part) for part in text.split(","))
    return rows, classes


# argparse names the type in its message: "invalid positive integer value: '0'".
_positive.__name__ = "positive integer"
_shape.__name__ = "shape N,C"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastxent",
        description="Softmax, cross-entropy and its gradient in one pass over the logits.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastxent {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    info = _command(commands, "info", _info, "show what a bug report should hold", _INFO_EXAMPLES)
    info.add_argument("--json", action="store_true", help="the same facts as JSON")

    check = _command(
        commands, "check", _check, "compare every backend with the reference", _CHECK_EXAMPLES
    )
    check.add_argument(
        "--backend", nargs="+", metavar="NAME", help="only these; by default all that can run"
    )
    check.add_argument(
        "--dtype",
        nargs="+",
        choices=selfcheck.DTYPES,
        default=selfcheck.DTYPES,
        help="only these; by default all four",
    )
    extent = check.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick",
        action="store_true",
        help="one case in eight, no large ones; Numba compiles first all the same",
    )
    extent.add_argument(
        "--thorough",
        nargs="?",
        type=_positive,
        const=selfcheck_thorough.SECONDS,
        metavar="SECONDS",
        help="random calls and the same bits instead, for so long (default: %(const)s)",
    )

    bench = _command(
        commands, "bench", _bench, "measure the speed beside that of others", _BENCH_EXAMPLES
    )
    bench.add_argument(
        "--shape",
        type=_shape,
        default=(8192, 1000),
        metavar="N,C",
        help="rows and classes (default: 8192,1000)",
    )
    bench.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="default: %(default)s"
    )
    bench.add_argument(
        "--labels",
        choices=("hard", "soft"),
        default="hard",
        help="class indices or probabilities (default: %(default)s)",
    )
    bench.add_argument(
        "--threads", type=_positive, metavar="N", help="for everybody (default: all there are)"
    )
    bench.add_argument("--quick", action="store_true", help="a few rounds only")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")

    demo = _command(
        commands, "demo", _demo, "train a network on handwritten digits", _DEMO_EXAMPLES
    )
    demo.add_argument(
        "--binary",
        action="store_true",
        help="one sigmoid output instead: malignant tumours of the breast from benign ones",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("fastxent-demo"),
        metavar="DIR",
        help="where the picture goes (default: %(default)s)",
    )
    demo.add_argument(
        "--epochs",
        type=_positive,
        default=EPOCHS,
        metavar="N",
        help="times that every image is learnt from (default: %(default)s)",
    )
    demo.add_argument("--backend", metavar="NAME", help="what trains (default: the fastest)")
    demo.add_argument("--no-speed", action="store_true", help="leave out the table of times")
    return parser


def _command(commands: Any, name: str, run: Any, summary: str, epilog: str) -> Any:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _info(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps(config.collect(), indent=2))
    else:
        config.show_config()
    return 0


def _check(arguments: argparse.Namespace) -> int:
    if arguments.thorough is not None:
        return selfcheck_thorough.run(arguments.backend, arguments.dtype, arguments.thorough)
    return selfcheck.run(arguments.backend, arguments.dtype, arguments.quick)


def _bench(arguments: argparse.Namespace) -> int:
    try:
        importlib.import_module("rich")
    except ImportError:
        return _usage_error('the benchmark needs rich: pip install "fastxent[bench]"')
    if arguments.json is not None:
        try:
            _try_to_write(arguments.json)
        except OSError as error:
            return _usage_error(f"--json: {error}")
    from fastxent.bench import machine, terminal
    from fastxent.bench.workloads import Workload

    most = threads.available_cpus()
    rows, classes = arguments.shape
    workload = Workload(
        rows,
        classes,
        labels=arguments.labels,
        dtype=arguments.dtype,
        threads=min(arguments.threads or most, most),
    )
    available = machine.available_bytes()
    if available is not None and available < workload.needed_bytes:
        return _usage_error(
            f"--shape: {workload.shape_text} needs {workload.needed_bytes / 1e9:.1f} GB for the "
            f"arrays of everybody, and {available / 1e9:.1f} GB of memory are available"
        )
    return terminal.run(workload, arguments.quick, arguments.json)


def _try_to_write(path: Path) -> None:
    """Raise OSError if there can be no such file; minutes later it would cost the results."""
    existed = path.exists()
    path.open("a", encoding="utf-8").close()
    if not existed:
        path.unlink()


def _demo(arguments: argparse.Namespace) -> int:
    backend = pick(arguments.backend).name
    missing = demo_report.missing_extras()
    if missing:
        return _usage_error(f'the demo needs {", ".join(missing)}: pip install "fastxent[demo]"')
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _usage_error(f"--out: {error}")
    run = demo_report.run_binary if arguments.binary else demo_report.run
    return run(arguments.out, arguments.epochs, backend, speed=not arguments.no_speed)


def _usage_error(message: object) -> int:
    print(f"fastxent: error: {message}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code: 0, 1 when a check failed, 2 for wrong usage (``SystemExit`` with 2 where
        argparse finds it).
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except FastxentError as error:
        return _usage_error(error)
    return code
