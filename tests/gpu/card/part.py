"""A pytest plugin: every process takes its share of the tests, for kernels compile on one core."""


def pytest_addoption(parser):
    parser.addoption("--part", default="0/1", help="K/N: every N-th test, from number K on")


def pytest_collection_modifyitems(config, items):
    number, parts = map(int, config.getoption("--part").split("/"))
    kept = items[number::parts]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept
