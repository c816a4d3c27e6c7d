"""A pytest plugin: each process takes its part of the tests, those with the same kernels together.

A kernel compiles for seconds on one core, and is then in the cache of all.
"""

from collections import defaultdict

import pytest


def pytest_addoption(parser):
    parser.addoption("--part", default="0/1", help="K/N: part number K of N")


def _kernels(item):
    """What tests have in common that need the same kernels."""
    chosen = getattr(item, "callspec", None)
    if chosen is None or "case" not in chosen.params:
        return item.nodeid
    return chosen.params["case"].shape, chosen.params["dtype"]


def _is_for_the_card(item):
    chosen = getattr(item, "callspec", None)
    if "test_conformance" not in item.nodeid:
        return True
    return chosen is not None and chosen.params.get("backend") == "cuda"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Deal out the groups, the largest first, to whoever has least."""
    number, parts = map(int, config.getoption("--part").split("/"))
    groups = defaultdict(list)
    for item in items:
        if _is_for_the_card(item):
            groups[_kernels(item)].append(item)
    dealt = [[] for _ in range(parts)]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(dealt, key=len).extend(group)
    kept = set(dealt[number])
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
