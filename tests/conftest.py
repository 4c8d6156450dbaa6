"""What tests and benchmarks share."""

import pytest


@pytest.fixture(scope="session")
def zoo_folder(request):
    """Where real models are kept between runs, until what they are made from changes."""
    return request.config.cache.mkdir("zoo")
