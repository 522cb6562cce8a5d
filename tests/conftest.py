import os

pytest_plugins = ["tests.interpreter", "tests.simt.plugin"]


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes; runs with PTMKERNELS_TEST_LONG=1")


def pytest_collection_modifyitems(config, items):
    if os.environ.get("PTMKERNELS_TEST_LONG") == "1":
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
