"""pip-audit, where an index tells the advisories of each project's newest release only.

It asks for the page of one release. Where there is none, the project's page answers for it, if the
release that is asked about is the project's newest; any other stays one that is not looked up.
"""

from __future__ import annotations

import runpy
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

__all__ = ["answer_for_the_newest"]


def answer_for_the_newest() -> None:
    """Have each request that finds no page of a release ask for the project's."""
    send = HTTPAdapter.send

    def of_release_or_project(
        self: HTTPAdapter, request: PreparedRequest, *rest: Any, **options: Any
    ) -> Response:
        answer = send(self, request, *rest, **options)
        url = request.url or ""
        if answer.status_code != 404 or request.method != "GET" or not url.endswith("/json"):
            return answer
        project, _, version = url.removesuffix("/json").rpartition("/")
        of_project = request.copy()
        of_project.url = f"{project}/json"
        newest = send(self, of_project, *rest, **options)
        page = newest.json() if newest.ok else {}
        # pip-audit takes a page that tells of no advisories at all for one that has none
        if "vulnerabilities" not in page or page["info"]["version"] != version:
            return answer
        answer.close()
        return newest

    HTTPAdapter.send = of_release_or_project  # type: ignore[method-assign]


if __name__ == "__main__":
    answer_for_the_newest()
    runpy.run_module("pip_audit", run_name="__main__", alter_sys=True)
