"""The programs that audit dependencies and look into packages: what they pass, and what not."""

import http.server
import json
import threading
import zipfile

import pytest
from reliability import audit, packages, records

SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
HARMED = {
    "name": "numba",
    "version": "0.1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.2"], "aliases": [], "description": "bad"}],
}
SKIPPED = {"name": "llvmlite", "skip_reason": "not found: llvmlite"}


@pytest.fixture
def auditor(tmp_path, monkeypatch):
    """A pip-audit that reports what it is given."""
    pytest.importorskip("requests", reason="comes with pip-audit")

    def reports(*dependencies):
        folder = tmp_path / "pip_audit"
        folder.mkdir()
        (folder / "__init__.py").touch()
        text = json.dumps({"dependencies": dependencies, "fixes": []})
        (folder / "__main__.py").write_text(f"print({text!r})\n")

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return reports


@pytest.mark.parametrize(
    ("dependencies", "code"),
    [([SOUND], 0), ([SOUND, HARMED], 1), ([SOUND, SKIPPED], 2), ([HARMED, SKIPPED], 2), ([], 2)],
)
def test_audit_passes_only_what_was_looked_up(auditor, tmp_path, capsys, dependencies, code):
    auditor(*dependencies)
    assert audit.main(["--out", str(tmp_path / "out")]) == code
    kept = records.load("audit", tmp_path / "out")
    told = capsys.readouterr()
    if code == 2:
        assert kept is None
        assert "not audited" in told.err
    else:
        assert kept is not None
        assert kept["passed"] == (code == 0)
        assert kept["figures"]["packages"] == len(dependencies)
        assert ("numba 0.1: PYSEC-1, mended in 0.2" in told.out) == bool(code)


PAGES = {  # of an index that has no page of the release 1.0
    "/some/1.1/json": {"info": {"version": "1.1"}, "vulnerabilities": []},
    "/some/json": {"info": {"version": "1.2"}, "vulnerabilities": []},
    "/silent/json": {"info": {"version": "1.2"}},
}


class Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = PAGES.get(self.path)
        self.send_response(404 if page is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(page).encode())

    def log_message(self, *_):
        """Print nothing."""


def test_the_page_of_a_project_answers_for_its_newest_release(monkeypatch):
    requests = pytest.importorskip("requests", reason="comes with pip-audit")
    from reliability import advisories

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", requests.adapters.HTTPAdapter.send)
    advisories.answer_for_the_newest()
    session = requests.Session()
    session.trust_env = False  # a proxy does not know this machine
    with http.server.HTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = "http://{}:{}".format(*server.server_address)
        releases = ["some/1.0", "some/1.1", "some/1.2", "other/1.0", "silent/1.2"]
        try:
            answers = [session.get(f"{where}/{one}/json", timeout=100) for one in releases]
        finally:
            server.shutdown()
    assert [one.status_code for one in answers] == [404, 200, 200, 404, 404]
    assert answers[1].json() == PAGES["/some/1.1/json"]
    assert answers[2].json() == PAGES["/some/json"]  # the newest: its project's page


def test_audit_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda _name: None)
    assert audit.main([]) == 2
    assert "pip install pip-audit" in capsys.readouterr().err


def test_audit_asks_about_what_is_installed():
    names = [line.partition("==")[0] for line in audit.pinned()]
    assert "numpy" in names
    assert all(version for _, _, version in (line.partition("==") for line in audit.pinned()))


@pytest.fixture
def wheel(tmp_path):
    """A wheel with these files too, without those."""

    def made(more=(), without=()):
        sources = [
            path.relative_to(packages.ROOT) for path in packages.ROOT.glob("fastxent/**/*.py")
        ]
        names = {path.as_posix() for path in sources}
        names |= {"fastxent/py.typed", "fastxent/backends/_kernels.abi3.so"}
        names |= {f"fastxent-1.dist-info/{name}" for name in packages.METADATA}
        path = tmp_path / "fastxent.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name in (names | set(more)) - set(without):
                archive.writestr(name, "")
        return path

    return made


def test_wheel_with_what_belongs_there(wheel):
    assert packages.wheel_faults(wheel()) == []


@pytest.mark.parametrize(
    "more",
    [
        *("tests/conftest.py", "fastxent/backends/_kernels.cpp", "setup.py", "fastxent/key.pem"),
        *("fastxent-1.dist-info/notes.txt", "fastxent.libs/libgomp.so"),
    ],
)
def test_wheel_with_something_else(wheel, more):
    assert packages.wheel_faults(wheel([more])) == [f"unexpected: {more}"]


@pytest.mark.skipif(not (packages.ROOT / "fastxent").exists(), reason="the source tree is not here")
@pytest.mark.parametrize("less", ["fastxent/py.typed", "fastxent/api/labels.py"])
def test_wheel_without_something(wheel, less):
    assert packages.wheel_faults(wheel(without=[less])) == [f"missing: {less}"]


def test_wheel_without_kernels_or_licence(wheel):
    assert packages.wheel_faults(wheel(without=["fastxent/backends/_kernels.abi3.so"])) == [
        "compiled modules: []"
    ]
    without = ["fastxent-1.dist-info/LICENSE"]
    assert packages.wheel_faults(wheel(without=without)) == ["missing: LICENSE"]
