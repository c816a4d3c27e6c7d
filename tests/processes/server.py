"""A web application that uses every backend on many threads, then is forked with its server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from processes.answers import answers, measured

__all__ = ["application"]

BACKENDS = os.environ["SERVED_BACKENDS"].split()
for _backend in BACKENDS:
    answers(_backend)


def application(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with what each backend gives in this worker."""
    found = [measured(backend) for backend in BACKENDS]
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
