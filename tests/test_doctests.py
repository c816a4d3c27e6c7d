"""Every example in a docstring or in the README runs as it stands."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import fastxent

MODULES = [
    name
    # a package whose framework is missing cannot be walked into: it is skipped below by its name
    for _, name, _ in pkgutil.walk_packages(fastxent.__path__, "fastxent.", onerror=lambda _: None)
    if not name.endswith(("__main__", "_kernels"))
]
PAGES = sorted(Path(__file__).parent.parent.glob("README.md"))

# What the adapters and their examples import, by the package below fastxent.
FRAMEWORKS = {
    "torch": ("torch",),
    "jax": ("jax",),
    "boosting": ("xgboost", "lightgbm", "catboost"),
    "sklearn": ("sklearn", "scipy"),
    "numba": ("numba",),
    "tensorflow": ("tensorflow",),
    "keras": ("keras", "tensorflow"),
    "dask": ("dask",),
    "mpi": ("mpi4py",),
}


@pytest.mark.parametrize("name", ["fastxent", *MODULES])
def test_docstrings(name):
    for framework in FRAMEWORKS.get(".".join(name.split(".")[1:2]), ()):
        pytest.importorskip(framework, reason=f"{framework} is not installed: the adapter needs it")
    reason = fastxent.backends()["numba"]
    if reason is not None and ("numba_cpu" in name or name.endswith("bench.copying")):
        pytest.skip(f"numba: {reason}")
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page):
    result = doctest.testfile(str(page), module_relative=False)
    assert result.failed == 0


def test_public_functions_have_examples():
    for name in fastxent.__all__:
        thing = getattr(fastxent, name)
        if callable(thing) and not (isinstance(thing, type) and issubclass(thing, Exception)):
            assert ">>>" in (thing.__doc__ or ""), f"{name} has no example"
