"""What tests and benchmarks share."""

from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items):
    """Files that start real servers come first, so that of workers side by side none ends with a long one."""
    slow = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def zoo_folder(request):
    """Where real models are kept between runs, until what they are made from changes."""
    return request.config.cache.mkdir("zoo")


@pytest.fixture(scope="session")
def make_home(tmp_path_factory) -> Callable[[], Path]:
    """Makes a home that shares the installed environment of the service, where there is one: to make it again
    takes half a minute, and it is the same."""

    def make() -> Path:
        home = tmp_path_factory.mktemp("home")
        installed = PROJECT / "dagster_home" / "environments"
        if installed.is_dir():
            (home / "environments").symlink_to(installed)
        return home

    return make
