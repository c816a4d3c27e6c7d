"""Ask an advisory database about what an installation of fastxent brings along.

Run it in an environment of its own, where fastxent is installed with the newest of everything, as
users get it: some indexes know advisories of the newest releases only.

pip-audit calls a package that the database's service does not know "skipped", and ends with
success all the same: here, what was not looked up is not audited.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reliability import records

__all__ = ["main"]

# What is installed with it, and what builds it.
PACKAGES = ("numpy", "numba", "llvmlite", "setuptools", "Cython")
EXAMPLES = """\
example:
  python -m pip install . pip-audit rich
  python -m reliability.audit
  python -m reliability.audit --requirements constraints.txt

Needs pip-audit and a connection to the service. Exits with 1 if there is an advisory, with 2 if
not all packages could be looked up.
"""


def pinned() -> list[str]:
    """The versions that are installed here."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def verdict(report: dict[str, Any]) -> tuple[dict[str, str], list[str], list[str]]:
    """Read a report of pip-audit.

    Parameters
    ----------
    report : dict
        What ``pip-audit --format json`` prints.

    Returns
    -------
    audited : dict
        Versions of the packages that were looked up, by name.
    advisories : list of str
        What is known against them.
    skipped : list of str
        Why packages were not looked up.
    """
    packages = report["dependencies"]
    audited = {each["name"]: each["version"] for each in packages if "version" in each}
    skipped = [each["skip_reason"] for each in packages if "skip_reason" in each]
    advisories = [
        f"{each['name']} {each['version']}: {known['id']}, mended in "
        f"{', '.join(known['fix_versions']) or 'no version'}"
        for each in packages
        for known in each.get("vulns", ())
    ]
    return audited, advisories, skipped


def main(argv: list[str] | None = None) -> int:
    """Audit, and keep what was found.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code: 0 for no advisory, 1 for some, 2 if not everything could be looked up.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requirements", type=Path, help="these pinned ones, not those installed")
    parser.add_argument("--service", default="pypi", choices=("pypi", "osv"), help="whom to ask")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help="where the record goes")
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("pip_audit") is None:
        print("the audit needs pip-audit: python -m pip install pip-audit", file=sys.stderr)
        return 2
    began = time.monotonic()
    lines = arguments.requirements.read_text().split() if arguments.requirements else pinned()
    with tempfile.TemporaryDirectory() as work, records.progress("audit", None):
        listed = Path(work) / "requirements.txt"
        listed.write_text("\n".join(line for line in lines if "==" in line) + "\n")
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        auditor = str(Path(__file__).with_name("advisories.py"))
        command = [sys.executable, "-P", auditor, "--vulnerability-service", arguments.service]
        done = subprocess.run(
            [*command, *options, "--requirement", listed],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    try:
        audited, advisories, skipped = verdict(json.loads(done.stdout))
    except json.JSONDecodeError:
        print(f"pip-audit gave no report:\n{done.stderr}", file=sys.stderr)
        return 2
    if skipped or not audited:
        print("\n".join(["not audited:", *skipped]), file=sys.stderr)
        return 2
    figures = {
        "packages": len(audited),
        "advisories": len(advisories),
        "audited": ", ".join(f"{name} {version}" for name, version in sorted(audited.items())),
    }
    seconds = time.monotonic() - began
    records.keep("audit", figures, not advisories, seconds, advisories, arguments.out)
    print("\n".join(advisories) or f"no advisory about {figures['audited']}")
    return 1 if advisories else 0


if __name__ == "__main__":
    sys.exit(main())
