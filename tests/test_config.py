"""What `show_config` tells: complete, plain data, and where the thread limit comes from."""

import json
import subprocess
import sys

import pytest

import fastxent as fx
from fastxent import config, threads

SECTIONS = [
    "fastxent",
    "python",
    "cpu",
    "threads",
    "backends",
    "runtimes",
    "adapters",
    "layouts",
    "versions",
    "environment",
]


def test_facts_are_complete_and_plain():
    facts = config.collect()
    assert list(facts) == SECTIONS
    assert json.loads(json.dumps(facts)) == facts
    assert facts["fastxent"]["version"] == fx.__version__
    assert facts["python"]["version"] == sys.version.split()[0]
    assert facts["cpu"]["available_cpus"] == threads.available_cpus()
    assert facts["cpu"]["model"]
    assert facts["threads"]["limit"] == fx.get_num_threads()
    assert "numpy" in facts["versions"]
    assert {"FASTXENT_ISA", "FASTXENT_NUM_THREADS"} <= facts["environment"].keys()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is loaded")
def test_runtimes_with_threads_are_listed_with_those_of_the_backends():
    if fx.backends()["cython"] is not None:
        pytest.skip(fx.backends()["cython"])
    from fastxent.backends import _kernels

    if not _kernels.openmp_version():
        pytest.skip("built without OpenMP")
    assert any("omp" in name for name in config.collect()["runtimes"]["loaded"])


def test_backends_are_those_of_the_registry_with_their_reasons():
    listed = config.collect()["backends"]
    assert {name: entry["reason"] for name, entry in listed.items()} == fx.backends()
    for entry in listed.values():
        assert entry["able"] == (entry["reason"] is None)
        assert all(isinstance(text, str) for item in entry["facts"].items() for text in item)


def test_instruction_levels_are_told():
    if fx.backends()["cython"] is not None:
        pytest.skip(f"cython: {fx.backends()['cython']}")
    facts = config.collect()["backends"]["cython"]["facts"]
    assert facts["instruction level"] in facts["levels built"].split(", ")
    assert facts["OpenMP"]


def test_modes(capsys):
    assert fx.show_config() is None
    listing = capsys.readouterr().out
    for name in [*SECTIONS, *fx.backends(), fx.__version__, "FASTXENT_ISA"]:
        assert name in listing
    facts = fx.show_config(mode="dicts")
    assert facts is not None
    assert list(facts) == SECTIONS
    assert capsys.readouterr().out == ""
    with pytest.raises(fx.OptionError, match="mode"):
        fx.show_config(mode="json")


def test_values_stand_in_one_column():
    facts = {"short": None, "much_longer": [1, 2], "inner": {"flag": True, "nothing": {}}}
    assert config._listing(facts) == [
        "short        -",
        "much longer  1, 2",
        "inner",
        "  flag  yes",
    ]


def origin(environment, set_first="pass"):
    """Limit and origin in a process of its own, with none of the thread variables but these."""
    code = f"import fastxent as fx; {set_first}; from fastxent.config import collect; "
    code += "told = collect()['threads']; print(told['limit'], told['set_by'])"
    inherited = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    limit, _, name = result.stdout.strip().partition(" ")
    return int(limit), name


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FASTXENT_NUM_THREADS": "1", "OMP_NUM_THREADS": "3"}, (1, "FASTXENT_NUM_THREADS")),
        ({"OMP_NUM_THREADS": "3"}, (3, "OpenMP (OMP_NUM_THREADS or threadpoolctl)")),
        ({"NUMBA_NUM_THREADS": "5"}, (5, "NUMBA_NUM_THREADS")),
    ],
)
def test_origin_of_the_thread_limit(environment, expected):
    assert origin(environment) == expected


def test_origin_of_the_thread_limit_without_any_setting():
    limit, name = origin({})
    assert limit == threads.available_cpus()
    assert "affinity" in name


def test_set_num_threads_goes_before_the_environment():
    environment = {"FASTXENT_NUM_THREADS": "2"}
    assert origin(environment, "fx.set_num_threads(1)") == (1, "set_num_threads")


def test_cpu_is_read_from_cpuinfo(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 fma sse4_2\n\n"
        "processor\t: 1\nmodel name\t: Other CPU\nflags\t\t: fpu\n"
    )
    cpu = config._cpu(cpuinfo)
    assert cpu["model"] == "Some CPU"
    assert cpu["features"] == ["avx2", "fma"]


def test_cpu_without_cpuinfo(tmp_path):
    cpu = config._cpu(tmp_path / "absent")
    assert cpu["model"]
    assert cpu["features"] == []
