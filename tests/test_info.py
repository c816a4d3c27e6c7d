"""`fastxent info --json`: always of one shape, whatever is installed, and nothing private in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastxent
from fastxent import config

ROOT = Path(fastxent.__file__).parent.parent
TEXT_OR_NONE = (str, type(None))

# Types of values; a dict with one key "*" stands for any keys.
SCHEMA = {
    "fastxent": {"version": str},
    "python": {
        "version": str,
        "implementation": str,
        "free_threaded": bool,
        "executable": str,
        "platform": str,
    },
    "cpu": {"model": str, "features": [str], "cpus": int, "available_cpus": int},
    "threads": {"limit": (int, type(None)), "set_by": str},
    "backends": {"*": {"able": bool, "reason": TEXT_OR_NONE, "facts": {"*": str}}},
    "runtimes": {"loaded": [str]},
    "adapters": {"*": str},
    "layouts": {"copied": [str]},
    "versions": {"*": str},
    "environment": {"*": TEXT_OR_NONE},
}


def faults(value, schema, where="info"):
    """Where a value is not what the schema says."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [where]
        if "*" in schema:
            schema = dict.fromkeys(value, schema["*"])
        elif value.keys() != schema.keys():
            return [f"{where}: {sorted(value.keys() ^ schema.keys())}"]
        return [bad for key in value for bad in faults(value[key], schema[key], f"{where}.{key}")]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [where]
        return [bad for each in value for bad in faults(each, schema[0], where)]
    return [] if isinstance(value, schema) else [where]


def info(*options, path=(), **environment):
    """What the command prints, in a process with these variables."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FASTXENT_", "OMP_", "NUMBA_"))
    }
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", *options, "-m", "fastxent", "info", "--json"],
        env=inherited | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path]))} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_schema_finds_what_does_not_match():
    facts = config.collect()
    assert faults(facts, SCHEMA) == []
    assert faults(facts | {"more": 1}, SCHEMA) == ["info: ['more']"]
    assert faults(facts | {"versions": {"numpy": 2}}, SCHEMA) == ["info.versions.numpy"]
    assert faults(facts | {"layouts": {"copied": [1]}}, SCHEMA) == ["info.layouts.copied"]


def test_shape_is_the_same_where_only_numpy_is_installed(tmp_path):
    installed = Path(np.__file__).parent.parent
    for path in installed.glob("numpy*"):
        (tmp_path / path.name).symlink_to(path)
    assert (tmp_path / "numpy").exists()
    # -S: what else is installed beside it is not found
    facts = info("-S", path=[tmp_path])
    assert faults(facts, SCHEMA) == []
    assert facts["versions"].keys() == {"numpy"}
    assert facts["backends"].keys() == fastxent.backends().keys()
    assert facts["backends"]["numpy"]["able"]
    assert facts["backends"]["numba"]["reason"].endswith("is not installed")
    assert facts["backends"]["cuda"]["reason"]


def test_home_and_secrets_are_not_told(tmp_path):
    home = tmp_path / "home" / "jane"
    other = tmp_path / "home" / "janet"
    for directory in (home, other):
        directory.mkdir(parents=True)
    facts = info(
        HOME=str(home),
        FASTXENT_CACHE_DIR=str(home / "kernels"),
        OMP_SOMETHING=str(other / "file"),
        SECRET_TOKEN="do not tell",
        AWS_ACCESS_KEY_ID="do not tell",
    )
    assert faults(facts, SCHEMA) == []
    text = json.dumps(facts)
    assert f"{home}/" not in text
    assert f'{home}"' not in text
    assert "do not tell" not in text
    assert facts["environment"]["FASTXENT_CACHE_DIR"] == "~/kernels"
    assert facts["environment"]["OMP_SOMETHING"] == str(other / "file")
    if facts["backends"]["numba"]["able"]:
        assert facts["backends"]["numba"]["facts"]["cache"].startswith("~/kernels/numba-")


@pytest.mark.parametrize("home", ["/", "not/absolute", ""])
def test_a_home_that_is_none_replaces_nothing(monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    assert config._without_home({"a": ["/usr/bin", 1, None]}) == {"a": ["/usr/bin", 1, None]}


def test_environment_names_only_what_concerns_the_library(monkeypatch):
    monkeypatch.setenv("PASSWORD", "x")
    told = config.collect()["environment"]
    assert all(name.startswith(("FASTXENT_", "OMP_", "NUMBA_")) for name in told)
