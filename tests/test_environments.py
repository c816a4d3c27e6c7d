"""The program that tests fastxent in clean environments: what it finds, chooses and tells."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="rich draws the progress bars")

from reliability import environments
from reliability.environment_build import Broken, Outcome, Workshop
from reliability.environment_list import Environment, Python, pythons
from reliability.environment_list import environments as listed

ROOT = Path(__file__).parent.parent
if not (ROOT / "setup.py").exists():
    pytest.skip("the source tree is absent: a wheel is being tested", allow_module_level=True)

PYTHONS = [Python(Path("a"), 11, False), Python(Path("b"), 13, False), Python(Path("c"), 14, True)]


def not_locked():
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def names(*only):
    return [one.name for one in environments.chosen(list(listed(PYTHONS)), only)]


def test_this_interpreter_is_found():
    own = Python(Path(sys._base_executable), sys.version_info.minor, not_locked())
    assert own.name in [python.name for python in pythons()]


def test_an_interpreter_that_is_given_goes_before_others(tmp_path):
    given = tmp_path / "python3"
    given.symlink_to(sys._base_executable)
    assert given in [python.path for python in pythons([str(given)])]


def test_each_kind_is_tried_on_each_python():
    assert names("oldest-3.11", "newest") == ["oldest-3.11", "newest-3.11", "newest-3.13"]
    assert "threaded-3.14t" in names()
    assert len(set(names())) == len(names())


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        names("eldest")
    assert refused.value.code == 2
    assert "'eldest'" in capsys.readouterr().out


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    missing = {one.name: one.missing for one in listed(PYTHONS)}
    assert "clang libomp-dev" in missing["clang"]
    assert "qemu-user" in missing["nehalem"]
    assert missing["no-openmp"] is None


@pytest.fixture
def workshop(tmp_path):
    try:
        return Workshop(tmp_path, PYTHONS[0])
    except Broken as error:
        pytest.skip(str(error))


def test_only_what_git_knows_is_copied(workshop):
    assert (workshop.tree / "setup.py").read_bytes() == (ROOT / "setup.py").read_bytes()
    assert not list(workshop.tree.rglob("*.so"))


def test_output_is_kept_and_a_failure_is_told(workshop, monkeypatch):
    monkeypatch.setenv("FASTXENT_ISA", "baseline")
    code = "import os, sys; print(os.environ.get('FASTXENT_ISA'), 'seen'); sys.exit('broken')"
    with pytest.raises(Broken, match=r"exit code 1[\s\S]*None seen"):
        workshop.run("some", [sys.executable, "-c", code])
    assert "broken" in workshop.log_of("some").read_text()


def test_a_fact_that_is_not_as_expected_fails(workshop, monkeypatch):
    monkeypatch.setattr(workshop, "run", lambda *_: '{"level": "v4"}')
    wanted = Environment("nehalem", PYTHONS[0], None, expects=(("level", "baseline"),))
    with pytest.raises(Broken, match="level is 'v4', expected 'baseline'"):
        workshop.test(wanted, Path(sys.executable), ["tests"])


def test_sums_leave_out_what_failed():
    facts = {"python": "3.11.7", "packages": {"numpy": "2.0.2", "pip": "1"}}
    wanted = Environment("wheel-3.11", PYTHONS[0], None)
    good = environments.as_figures(wanted, Outcome(facts, 30, 2), 7.3)
    bad = environments.as_figures(wanted, Outcome(fault="no wheel"), 1.0)
    assert good["versions"] == {"numpy": "2.0.2"}
    figures = environments.summed({"wheel-3.11": good, "clang": bad}, {})
    assert (figures["count"], figures["cases"], figures["names"]) == (1, 30, "wheel-3.11")
    assert figures["numpys"] == "2.0.2"


def test_the_program_lists_what_can_be_tried():
    done = subprocess.run(
        [sys.executable, "-m", "reliability.environments", "--list", "--only", "no-openmp"],
        cwd=ROOT,
        env={"PYTHONPATH": ".:tests", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no-openmp")
