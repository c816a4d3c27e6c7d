"""The command `fastxent`: info, check, demo.

Exit codes: 0, it is as it should be; 1, a check failed; 2, wrong usage or something is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fastxent import config, demo_report, selfcheck
from fastxent.backends import pick
from fastxent.demo import EPOCHS
from fastxent.errors import FastxentError
from fastxent.version import __version__

__all__ = ["main"]

_EXAMPLES = """\
examples:
  fastxent info                  versions, CPU, backends, threads: for a bug report
  fastxent check                 are the results right on this machine?
  fastxent demo                  train a small network on handwritten digits
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

Exits with 1 if a case failed.
"""

_DEMO_EXAMPLES = """\
examples:
  fastxent demo
  fastxent demo --out /tmp/digits --backend numpy --no-speed

Needs: pip install "fastxent[demo]". Exits with 1 if the test accuracy stays below 97 %, or if the
training differs from the same one by the textbook formulas.
"""


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


# argparse names the type in its message: "invalid positive integer value: '0'".
_positive.__name__ = "positive integer"


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
        help="only these; by default both",
    )
    check.add_argument("--quick", action="store_true", help="one case in eight, no large ones")

    demo = _command(
        commands, "demo", _demo, "train a network on handwritten digits", _DEMO_EXAMPLES
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
    return selfcheck.run(arguments.backend, arguments.dtype, arguments.quick)


def _demo(arguments: argparse.Namespace) -> int:
    backend = pick(arguments.backend).name
    missing = demo_report.missing_extras()
    if missing:
        return _usage_error(f'the demo needs {", ".join(missing)}: pip install "fastxent[demo]"')
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _usage_error(f"--out: {error}")
    return demo_report.run(arguments.out, arguments.epochs, backend, speed=not arguments.no_speed)


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
