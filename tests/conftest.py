"""What tests and benchmarks share."""

import pytest


def pytest_collection_modifyitems(items):
    """Files that start real servers come first, so that of workers side by side none ends with a long one."""
    slow = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def zoo_folder(request):
    """Where real models are kept between runs, until what they are made from changes."""
    return request.config.cache.mkdir("zoo")
