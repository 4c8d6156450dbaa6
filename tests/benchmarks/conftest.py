"""What the benchmarks share."""

import pytest


@pytest.fixture(scope="session")
def zoo_folder(request):
    """Where real models are kept between runs."""
    return request.config.cache.mkdir("zoo")
